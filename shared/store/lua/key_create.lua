#!lua
-- Keep the hash of a new API key. ARGV: its sha256, name, tenant -> 1 (also when repeated) | 0 (the name is taken)
local holder = redis.call('HGET', P .. 'keys', ARGV[2])
if holder then return holder == ARGV[1] and 1 or 0 end
redis.call('HSET', P .. 'keys', ARGV[2], ARGV[1])
redis.call('HSET', P .. 'k:' .. ARGV[1], 'v', 1, 'name', ARGV[2], 'tenant', ARGV[3],
  'created', whole(now()), 'used', 0)
return 1
