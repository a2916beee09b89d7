#!lua flags=allow-oom
-- with hooks
-- Say which endpoints want to hear of which outcomes, and take what is due for them. ARGV, of each endpoint: its name, its rule
-- ("<tenant or *> <final statuses>"), lease_ms, how many at most
-- -> rows {endpoint, id, status, Redis ms of the end, the how many-th attempt this is, or 0: it is given up, as
--    its time was over before hook_done could say so}. What is taken comes again when the lease is over, unless hook_done says
--    otherwise. What is given up or no longer stored is dropped, and does not count: the look goes on behind it, as far as a
--    call may take.
local t, rows = now(), {}
local most = 4000 / #ARGV  -- 1,000 for all endpoints together
for i = 1, #ARGV, 4 do
  local endpoint, lease, room, seen = ARGV[i], tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3]), 0
  local due = P .. 'hooks:' .. endpoint
  want(endpoint, ARGV[i + 1], t)
  while room > 0 and seen < most do
    local ids = redis.call('ZRANGEBYSCORE', due, '-inf', t, 'LIMIT', 0, room)
    for _, id in ipairs(ids) do  -- none of them is due afterwards
      local r = P .. 'r:' .. id
      local v = redis.call('HMGET', r, 'status', 'ended', 'keep_s')
      if newer(r) then
        redis.call('ZADD', due, whole(t + LOOK_MS), id)
      elseif not v[2] then
        redis.call('ZREM', due, id)
      elseif t > hook_limit(v[2], v[3]) then
        redis.call('ZREM', due, id)
        redis.call('HDEL', r, 'hook:' .. endpoint)
        table.insert(rows, {endpoint, id, v[1], v[2], 0})
      else
        redis.call('ZADD', due, whole(t + lease), id)
        table.insert(rows, {endpoint, id, v[1], v[2], redis.call('HINCRBY', r, 'hook:' .. endpoint, 1)})
        room = room - 1
      end
    end
    if #ids == 0 then break end
    seen = seen + #ids
  end
end
return rows
