#!lua flags=allow-oom
-- Make an ended response small, once. ARGV: id, its log ('' without one), its output ('' when it stays as it is), both packed,
--       1 when the Response can be made again from the log -> 1 | 0 (nothing to do)
-- What of a record is of no use once it has ended
local RUN_FIELDS = {'inboxes', 'owner', 'lane', 'order', 'waits', 'crashes', 'tries', 'releases', 'takeovers', 'cancel', 'polled'}
require_known(P .. 'r:' .. ARGV[1])
local id, packed, output = ARGV[1], ARGV[2], ARGV[3]
local r, b, e = P .. 'r:' .. id, P .. 'b:' .. id, P .. 'e:' .. id
redis.call('ZREM', P .. 'pack', id)
local status = redis.call('HGET', r, 'status')
if not status or not terminal(status) or redis.call('HEXISTS', b, 'size') == 1 then return 0 end
redis.call('HSET', b, 'size', redis.call('HSTRLEN', b, 'output'))
if output ~= '' then redis.call('HSET', b, 'output', output) end
if packed ~= '' then
  redis.call('HSET', b, 'log', packed)
  redis.call('DEL', e)
  if ARGV[4] == '1' then redis.call('HDEL', b, 'object', 'at', 'output') end
end
redis.call('HDEL', r, unpack(RUN_FIELDS))
return 1
