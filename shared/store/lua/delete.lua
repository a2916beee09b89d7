#!lua flags=allow-oom
-- Delete an ended response. Its block stays while younger turns need it. ARGV: id, tenant
-- -> 'ok' | 'gone' | 'running'
require_known(P .. 'r:' .. ARGV[1])
local id = ARGV[1]
local v = redis.call('HMGET', P .. 'r:' .. id, 'status', 'tenant')
if not v[1] or v[2] ~= ARGV[2] then return 'gone' end
if not terminal(v[1]) then return 'running' end
redis.call('DEL', P .. 'r:' .. id, P .. 'q:' .. id, P .. 'e:' .. id, JOB .. id)
redis.call('ZREM', P .. 'pack', id)
redis.call('HDEL', P .. 'b:' .. id, 'object', 'at')
redis.call('HSET', P .. 'b:' .. id, 'deleted', 1)
drop_block(id)
return 'ok'
