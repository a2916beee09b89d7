#!lua flags=no-writes,allow-oom
-- with conversations
-- One conversation as it stands. ARGV: id, tenant, with items (0 or 1), the first and the last batch of them (as LRANGE)
-- -> {} when there is no such conversation | {created, metadata, next, size, locked (0 or 1), number of batches, of
--    deleted items}, with items followed by {id of a deleted item, ...}, {batch of items (JSON array), ...}
require_known(P .. 'c:' .. ARGV[1])
local id = ARGV[1]
local v = redis.call('HMGET', P .. 'c:' .. id, 'tenant', 'deleted', 'created', 'metadata', 'next', 'size', 'lock')
if not v[1] or v[1] ~= ARGV[2] or v[2] == '1' then return {} end
local ci, cd = P .. 'ci:' .. id, P .. 'cd:' .. id
local answer = {v[3], v[4], v[5], v[6], holds(v[7]) and 1 or 0, redis.call('LLEN', ci), redis.call('ZCARD', cd)}
if ARGV[3] == '1' then
  table.insert(answer, redis.call('ZRANGE', cd, 0, -1))
  table.insert(answer, redis.call('LRANGE', ci, ARGV[4], ARGV[5]))
end
return answer
