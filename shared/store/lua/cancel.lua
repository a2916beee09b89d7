#!lua flags=allow-oom
-- with messages, queue, conversations, blocks, hooks, ending
-- Cancel a response. One that nobody runs is settled here, with what the caller rendered for its number of events;
-- of one that runs the wish is noted, so that only 'cancelled' can follow, and its owner is called.
-- ARGV: id, tenant, inbox of the caller, seq, frames, object, status in them
-- -> {'gone'} | {'ended', status} | {'settled'} | {'moved'} (seq is another now: read again) | {'noted', attempt}
require_known(P .. 'r:' .. ARGV[1])
local id = ARGV[1]
local r = P .. 'r:' .. id
local v = redis.call('HMGET', r, 'status', 'tenant', 'owner', 'seq', 'attempt', 'inboxes', 'stream')
if not v[1] or v[2] ~= ARGV[2] then return {'gone'} end
if terminal(v[1]) then return {'ended', v[1]} end
if v[3] == '' then
  if v[4] ~= ARGV[4] then return {'moved'} end
  settle(id, ARGV[7], v[4], v[7] == '1' and '1' or '0', ARGV[5], ARGV[6], 2)
  send()
  return {'settled'}
end
redis.call('HSET', r, 'cancel', 1)
watch_with(id, v[6], ARGV[3])
tell(v[3], 'c ' .. id .. ' ' .. v[5] .. ' 0', '')
send()
return {'noted', v[5]}
