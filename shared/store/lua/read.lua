#!lua flags=no-writes,allow-oom
-- One response as it stands. ARGV: id, tenant ('': the system itself asks), 1 to read its object, too (it may be large)
-- -> {} when there is no such response | {status, seq, stream, background, store, shown, attempt, object, place}; its place in its
--    queue counts from 0, and is nil for one that does not wait
local v = redis.call('HMGET', P .. 'r:' .. ARGV[1], 'status', 'seq', 'stream', 'background', 'store', 'shown', 'attempt',
  'tenant', 'lane')
if not v[1] or (ARGV[2] ~= '' and v[8] ~= ARGV[2]) then return {} end
v[8] = ARGV[3] == '1' and redis.call('GET', P .. 'o:' .. ARGV[1])
v[9] = v[1] == 'queued' and redis.call('ZRANK', QUEUE .. v[9], TAG .. ':' .. ARGV[1])
return v
