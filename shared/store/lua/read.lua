#!lua flags=no-writes,allow-oom
-- One response as it stands. ARGV: id, tenant ('': the system itself asks)
-- -> {} when there is no such response | {status, seq, stream, background, store, shown, attempt, object}
local v = redis.call('HMGET', P .. 'r:' .. ARGV[1], 'status', 'seq', 'stream', 'background', 'store', 'shown', 'attempt',
  'tenant')
if not v[1] or (ARGV[2] ~= '' and v[8] ~= ARGV[2]) then return {} end
v[8] = redis.call('GET', P .. 'o:' .. ARGV[1])
return v
