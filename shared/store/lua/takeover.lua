#!lua flags=allow-oom
-- with queue
-- Take the right to settle a response whose cancel was noted, but whose owner did not follow. ARGV: id, who, lease_ms
-- -> {attempt} | {} (it has ended, or no cancel is noted)
require_known(P .. 'r:' .. ARGV[1])
local r = P .. 'r:' .. ARGV[1]
local v = redis.call('HMGET', r, 'status', 'cancel', 'owner', 'tenant')
if not v[1] or terminal(v[1]) or v[2] ~= '1' then return {} end
redis.call('HSET', r, 'owner', ARGV[2], 'status', 'in_progress')
if v[3] == '' then running(v[4], 1) end
redis.call('ZADD', P .. 'live', now() + ARGV[3], ARGV[1])
return {redis.call('HINCRBY', r, 'attempt', 1)}
