#!lua flags=allow-oom
-- with conversations
-- Other metadata for a conversation. ARGV: id, tenant, metadata (JSON) -> {created} | {} (there is no such conversation)
require_known(P .. 'c:' .. ARGV[1])
local id = ARGV[1]
local c = P .. 'c:' .. id
local v = redis.call('HMGET', c, 'tenant', 'deleted', 'created')
if not v[1] or v[1] ~= ARGV[2] or v[2] == '1' then return {} end
redis.call('HSET', c, 'metadata', ARGV[3])
keep_conversation(id)
return {v[3]}
