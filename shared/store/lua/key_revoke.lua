#!lua flags=allow-oom
-- Forget an API key. ARGV: its name -> 1 | 0 (there is no such one)
local sha256 = redis.call('HGET', P .. 'keys', ARGV[1])
if not sha256 then return 0 end
redis.call('HDEL', P .. 'keys', ARGV[1])
redis.call('DEL', P .. 'k:' .. sha256)
return 1
