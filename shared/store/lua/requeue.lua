#!lua flags=allow-oom
-- with queue
-- An operator puts a response back into its queue: one that runs, or that waits for its next try. Not counted as a crash.
-- ARGV: id
-- -> 'ok' | 'queued' (it stands there already) | 'gone' | 'shown' | 'cancelled' | 'settling' (somebody settles it for its
--    worker) | 'unreadable' (its request is gone) | a final status
require_known(P .. 'r:' .. ARGV[1])
local id = ARGV[1]
local r = P .. 'r:' .. id
local v = redis.call('HMGET', r, 'status', 'owner', 'attempt', 'shown', 'cancel', 'takeovers', 'lane', 'order', 'tenant')
if not v[1] then return 'gone' end
if terminal(v[1]) then return v[1] end
if v[5] == '1' then return 'cancelled' end
if v[4] == '1' then return 'shown' end
if v[6] ~= '0' then return 'settling' end
if redis.call('EXISTS', P .. 'q:' .. id) == 0 then return 'unreadable' end
if v[2] == '' and redis.call('ZSCORE', QUEUE .. v[7], TAG .. ':' .. id) then return 'queued' end
redis.call('HSET', r, 'owner', '', 'attempt', v[3] + 1) -- what its old owner still sends is fenced
if v[2] ~= '' then running(v[9], -1) end
enqueue(id, v[7], v[8], now())
return 'ok'
