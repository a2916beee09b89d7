#!lua flags=allow-oom
-- with messages
-- From now on an inbox hears when the status of a response changes (and of its events, if it has a log).
-- ARGV: id, tenant, inbox -> 1 | 0 (there is no such response, or it has ended)
require_known(P .. 'r:' .. ARGV[1])
local id = ARGV[1]
local v = redis.call('HMGET', P .. 'r:' .. id, 'status', 'tenant', 'inboxes')
if not v[1] or v[2] ~= ARGV[2] or terminal(v[1]) then return 0 end
watch_with(id, v[3], ARGV[3])
if v[1] == 'queued' then redis.call('HSET', P .. 'r:' .. id, 'polled', 1) end
return 1
