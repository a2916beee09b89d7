#!lua flags=allow-oom
-- with conversations
-- Delete a conversation. Its items stay, for nobody to start from, while stored responses that used it need them.
-- A response that runs in it goes on, and its items are not added. ARGV: id, tenant -> 'ok' | 'gone'
require_known(P .. 'c:' .. ARGV[1])
local id = ARGV[1]
local c = P .. 'c:' .. id
local v = redis.call('HMGET', c, 'tenant', 'deleted', 'refs')
if not v[1] or v[1] ~= ARGV[2] or v[2] == '1' then return 'gone' end
redis.call('HSET', c, 'deleted', 1, 'metadata', '{}')
if v[3] == '0' then drop_conversation(id) end
return 'ok'
