#!lua flags=allow-oom
-- with conversations
-- Delete an item that is in a conversation. ARGV: id, tenant, id of the item -> 'ok', also when repeated | 'gone' | 'locked'
require_known(P .. 'c:' .. ARGV[1])
local id = ARGV[1]
local v = redis.call('HMGET', P .. 'c:' .. id, 'tenant', 'deleted', 'lock')
if not v[1] or v[1] ~= ARGV[2] or v[2] == '1' then return 'gone' end
if holds(v[3]) then return 'locked' end
local cd = P .. 'cd:' .. id
redis.call('ZADD', cd, 'NX', redis.call('ZCARD', cd), ARGV[3])
keep_conversation(id)
return 'ok'
