#!lua flags=no-writes,allow-oom
-- What there is to see, for `respool doctor`. ARGV: most responses and most entries of a lane to look at
-- -> {unsettled, waiting, ms since the first in a queue came, responses overdue for packing, ms since the last tick ('' without
--    one), ms left of grace, rows of unsettled responses in the order of their time {id, v, status, owner, lane, attempt, crashes,
--    shown, cancel, ms until it is due, ms since it may be claimed, 1 when it is in its queue, 1 when its request is there},
--    strays {id, lane}: entries of queues that no response waits behind, webhooks {endpoint, deliveries that wait, that should
--    have been tried a minute ago, that wait for more than two minutes}}
local most, t = tonumber(ARGV[1]), now()
local rows, strays, hooks, waiting, oldest = {}, {}, {}, 0, 0

local live = redis.call('ZRANGE', P .. 'live', 0, most - 1, 'WITHSCORES')
for i = 1, #live, 2 do
  local id = live[i]
  local v = redis.call('HMGET', P .. 'r:' .. id, 'v', 'status', 'owner', 'lane', 'attempt', 'crashes', 'shown', 'cancel', 'waits')
  if v[2] and not terminal(v[2]) then
    local queued = redis.call('ZSCORE', QUEUE .. v[4], TAG .. ':' .. id) and 1 or 0
    table.insert(rows, {id, v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], whole(live[i + 1] - t), whole(t - v[9]), queued,
      redis.call('EXISTS', P .. 'q:' .. id)})
  end
end
for _, lane in ipairs(LANES) do
  waiting = waiting + redis.call('ZCARD', QUEUE .. lane)
  for place, member in ipairs(redis.call('ZRANGE', QUEUE .. lane, 0, most - 1)) do
    local id = string.sub(member, #TAG + 2)
    local v = redis.call('HMGET', P .. 'r:' .. id, 'status', 'owner', 'waits')
    if not v[1] or terminal(v[1]) or v[2] ~= '' then
      table.insert(strays, {id, lane})
    elseif place == 1 then
      oldest = math.max(oldest, t - v[3])
    end
  end
end
for _, endpoint in ipairs(redis.call('HKEYS', P .. 'hooks')) do
  local due = P .. 'hooks:' .. endpoint
  table.insert(hooks, {endpoint, redis.call('ZCARD', due), redis.call('ZCOUNT', due, '-inf', t - 60000),
    redis.call('ZCOUNT', due, t + 120000, '+inf')})
end
local last = redis.call('GET', P .. 'tick')
return {redis.call('ZCARD', P .. 'live'), waiting, whole(oldest), redis.call('ZCOUNT', P .. 'pack', '-inf', t - PACK_MS),
  last and whole(t - last) or '', math.max(0, redis.call('PTTL', P .. 'grace')), rows, strays, hooks}
