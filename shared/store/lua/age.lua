#!lua flags=allow-oom
-- List what ended before ended responses were listed by age. ARGV: seconds that the longest of them is kept, then ids -> 1
for i = 2, #ARGV do
  local v = redis.call('HMGET', P .. 'r:' .. ARGV[i], 'status', 'ended', 'v')
  if v[2] and tonumber(v[3] or 0) <= SCHEMA and terminal(v[1]) then redis.call('ZADD', P .. 'aged', 'NX', v[2], ARGV[i]) end
end
if redis.call('TTL', P .. 'aged') < tonumber(ARGV[1]) then redis.call('EXPIRE', P .. 'aged', ARGV[1]) end
return 1
