#!lua flags=allow-oom
-- Take one of a backend's places. ARGV: backend, who, limit, lease_ms -> 1 | 0 (all are taken). Repeated: 1.
local key, t = P .. 'slots:' .. ARGV[1], now()
redis.call('ZREMRANGEBYSCORE', key, '-inf', t) -- of workers that died
if not redis.call('ZSCORE', key, ARGV[2]) and redis.call('ZCARD', key) >= tonumber(ARGV[3]) then return 0 end
redis.call('ZADD', key, t + ARGV[4], ARGV[2])
redis.call('PEXPIRE', key, ARGV[4])
return 1
