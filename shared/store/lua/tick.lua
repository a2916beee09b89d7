#!lua flags=allow-oom
-- A process lives and Redis answers. ARGV: lease_ms -> 1
tick(now(), tonumber(ARGV[1]))
return 1
