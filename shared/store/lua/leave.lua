#!lua flags=allow-oom
-- The last local reader of a response has gone. ARGV: id, inbox -> 1
require_known(P .. 'r:' .. ARGV[1])
local r = P .. 'r:' .. ARGV[1]
local inboxes = redis.call('HGET', r, 'inboxes')
if not inboxes then return 1 end
local kept = {}
for inbox in string.gmatch(inboxes, '%S+') do
  if inbox ~= ARGV[2] then table.insert(kept, inbox) end
end
redis.call('HSET', r, 'inboxes', table.concat(kept, ' '))
return 1
