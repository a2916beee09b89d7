#!lua flags=allow-oom
-- with conversations, blocks
-- Delete an ended response. Its block stays while younger turns need it. ARGV: id, tenant
-- -> 'ok' | 'gone' | 'running'
require_known(P .. 'r:' .. ARGV[1])
local id = ARGV[1]
local v = redis.call('HMGET', P .. 'r:' .. id, 'status', 'tenant')
if not v[1] or v[2] ~= ARGV[2] then return 'gone' end
if not terminal(v[1]) then return 'running' end
remove(id)
return 'ok'
