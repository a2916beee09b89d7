#!lua flags=allow-oom
-- Give a place back. ARGV: backend, who -> 1
redis.call('ZREM', P .. 'slots:' .. ARGV[1], ARGV[2])
return 1
