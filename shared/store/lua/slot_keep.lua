#!lua flags=allow-oom
-- Keep places. ARGV: lease_ms, then backend and who of each -> 1
local t = now()
for i = 2, #ARGV, 2 do
  local key = P .. 'slots:' .. ARGV[i]
  redis.call('ZADD', key, t + ARGV[1], ARGV[i + 1])
  redis.call('PEXPIRE', key, ARGV[1])
end
return 1
