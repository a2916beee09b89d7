#!lua
-- with conversations
-- A new conversation. Refused by Redis itself at maxmemory (no allow-oom).
-- ARGV: id, tenant, created (Unix seconds), metadata (JSON), keep_s, its first items (JSON array), their number
-- -> 'ok', also when repeated
local id = ARGV[1]
local c = P .. 'c:' .. id
if redis.call('EXISTS', c) == 1 then return 'ok' end
redis.call('HSET', c, 'v', SCHEMA, 'tenant', ARGV[2], 'created', ARGV[3], 'metadata', ARGV[4], 'keep_s', ARGV[5], 'next', ARGV[7],
  'size', 0, 'refs', 0, 'deleted', 0, 'lock', '')
add_items(id, ARGV[6])
keep_conversation(id)
return 'ok'
