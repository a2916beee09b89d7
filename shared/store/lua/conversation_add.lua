#!lua
-- with conversations
-- Add items to a conversation that nobody writes to. Refused by Redis itself at maxmemory (no allow-oom).
-- ARGV: id, tenant, items (JSON array), their number, number of batches there were when their ids were chosen, max bytes,
--       a name for this call, new for each but its repetitions
-- -> 'ok', also when repeated | 'gone' | 'locked' | 'moved' (read again) | 'long'
require_known(P .. 'c:' .. ARGV[1])
local id, memo = ARGV[1], P .. 'cm:' .. ARGV[7]
local c = P .. 'c:' .. id
local v = redis.call('HMGET', c, 'tenant', 'deleted', 'lock', 'size')
if not v[1] or v[1] ~= ARGV[2] or v[2] == '1' then return 'gone' end
if redis.call('EXISTS', memo) == 1 then return 'ok' end
if holds(v[3]) then return 'locked' end
if redis.call('LLEN', P .. 'ci:' .. id) ~= tonumber(ARGV[5]) then return 'moved' end
if v[4] + #ARGV[3] > tonumber(ARGV[6]) then return 'long' end
add_items(id, ARGV[3])
redis.call('HINCRBY', c, 'next', ARGV[4])
redis.call('SET', memo, '1', 'EX', 10)
keep_conversation(id)
return 'ok'
