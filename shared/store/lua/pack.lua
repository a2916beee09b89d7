#!lua flags=allow-oom
-- Put a packed log in the place of the log of an ended response, once. ARGV: id, packed log -> 1 | 0 (nothing to do)
local id = ARGV[1]
local e = P .. 'e:' .. id
redis.call('ZREM', P .. 'pack', id)
local status = redis.call('HGET', P .. 'r:' .. id, 'status')
if not status or not terminal(status) or redis.call('TYPE', e).ok ~= 'stream' then return 0 end
local ttl = redis.call('PTTL', e)
redis.call('DEL', e)
redis.call('SET', e, ARGV[2], 'PX', ttl)
return 1
