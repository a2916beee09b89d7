#!lua flags=no-writes,allow-oom
-- One response as it stands. ARGV: id, tenant ('': the system itself asks), 1 to read its object, too (it may be large)
-- -> {} when there is no such response | {status, seq, stream, background, store, shown, attempt, place, attempts, object, at, output, log};
--    its place in its queue counts from 0, and is nil for one that does not wait; of an ended one the output was cut out of
--    the object, behind its at-th byte; of a packed one there may be only the log
require_known(P .. 'r:' .. ARGV[1])
local v = redis.call('HMGET', P .. 'r:' .. ARGV[1], 'status', 'seq', 'stream', 'background', 'store', 'shown', 'attempt',
  'tenant', 'lane', 'attempts')
if not v[1] or (ARGV[2] ~= '' and v[8] ~= ARGV[2]) then return {} end
v[8] = v[1] == 'queued' and redis.call('ZRANK', QUEUE .. v[9], TAG .. ':' .. ARGV[1])
v[9], v[10] = v[10] or '', nil
if ARGV[3] ~= '1' then return v end
local b = redis.call('HMGET', P .. 'b:' .. ARGV[1], 'object', 'at', 'output')
v[10], v[11], v[12] = b[1], b[2], b[3]
v[13] = not b[1] and redis.call('HGET', P .. 'b:' .. ARGV[1], 'log')
return v
