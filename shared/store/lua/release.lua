#!lua flags=allow-oom
-- with queue
-- Give a response back that nobody has seen output of. ARGV: id, attempt, why ('drain' | 'retry'), delay_ms, tries,
-- calls to backends so far, worker
-- -> 'ok' | 'cancelled' | 'fenced'. With a delay it waits in live, and the reaper puts it back when that is over.
local id = ARGV[1]
local r = P .. 'r:' .. id
local v = redis.call('HMGET', r, 'status', 'attempt', 'owner', 'cancel', 'lane', 'order', 'shown', 'tenant')
if v[1] ~= 'in_progress' or v[2] ~= ARGV[2] or v[3] ~= ARGV[7] or v[7] == '1' then return 'fenced' end
if v[4] == '1' then return 'cancelled' end
if ARGV[6] ~= '' then redis.call('HSET', r, 'attempts', ARGV[6]) end
redis.call('HSET', r, 'owner', '', 'tries', ARGV[5], 'attempt', v[2] + 1) -- what is still on its way is fenced
running(v[8], -1)
if ARGV[3] == 'drain' then redis.call('HINCRBY', r, 'releases', 1) end
local t, delay = now(), tonumber(ARGV[4])
if delay > 0 then
  redis.call('HSET', r, 'waits', t + delay)
  redis.call('ZADD', P .. 'live', t + delay, id)
else
  enqueue(id, v[5], v[6], t)
end
return 'ok'
