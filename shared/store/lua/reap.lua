#!lua flags=allow-oom
-- with queue, clock
-- Look at every response that is due, at most <limit>. ARGV: who, limit, lease_ms, max_queue_ms, max crashes
-- -> rows {id, what, attempt, reason}: what = 'pack' (it should be packed) | 'requeued' | 'settle' (the caller now owns
--    it and must settle it from its log, as reason says: 'lost' | 'cancelled' | 'waited') | 'empty' (the same, but without
--    reading its log) | 'newer' (attempt is its version: it is left to others)
local who, lease = ARGV[1], tonumber(ARGV[3])
local PACK_LIMIT = 20
local t, rows = now(), {}
tick(t, lease)
if redis.call('EXISTS', P .. 'grace') == 1 then return rows end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'pack', '-inf', t, 'LIMIT', 0, PACK_LIMIT)) do
  if newer(P .. 'r:' .. id) then
    redis.call('ZADD', P .. 'pack', t + LOOK_MS, id)
  elseif redis.call('EXISTS', P .. 'r:' .. id) == 1 and redis.call('HEXISTS', P .. 'b:' .. id, 'size') == 0 then
    redis.call('ZADD', P .. 'pack', t + LOOK_MS, id) -- again, should the packer die
    table.insert(rows, {id, 'pack', '', 'ended'})
  else
    redis.call('ZREM', P .. 'pack', id) -- it has expired, or was packed
  end
end

local function own(id, r, reason, owner, tenant)
  local takeovers = redis.call('HINCRBY', r, 'takeovers', 1)
  redis.call('HSET', r, 'owner', who, 'status', 'in_progress')
  if owner == '' then running(tenant, 1) end
  redis.call('ZADD', P .. 'live', t + lease, id)
  table.insert(rows, {id, takeovers > 2 and 'empty' or 'settle', redis.call('HINCRBY', r, 'attempt', 1), reason})
end

local function look(id)
  local r = P .. 'r:' .. id
  local version = newer(r)
  if version then
    redis.call('ZADD', P .. 'live', t + LOOK_MS, id)
    table.insert(rows, {id, 'newer', version, 'waiting'})
    return
  end
  local v = redis.call('HMGET', r, 'status', 'owner', 'cancel', 'shown', 'crashes', 'lane', 'order', 'waits', 'tenant')
  if not v[1] or terminal(v[1]) then
    redis.call('ZREM', P .. 'live', id)
  elseif v[2] ~= '' then
    local crashes = redis.call('HINCRBY', r, 'crashes', 1)
    if v[3] == '1' then
      own(id, r, 'cancelled', v[2], v[9])
    elseif v[4] == '1' or crashes >= tonumber(ARGV[5]) then
      own(id, r, 'lost', v[2], v[9])
    else
      redis.call('HINCRBY', r, 'attempt', 1)
      redis.call('HSET', r, 'owner', '')
      running(v[9], -1)
      enqueue(id, v[6], v[7], t)
      table.insert(rows, {id, 'requeued', '', 'lost'})
    end
  elseif t - v[8] > tonumber(ARGV[4]) then
    redis.call('ZREM', QUEUE .. v[6], TAG .. ':' .. id)
    own(id, r, 'waited', v[2], v[9])
  elseif redis.call('ZSCORE', QUEUE .. v[6], TAG .. ':' .. id) then
    redis.call('ZADD', P .. 'live', t + LOOK_MS, id)
  else
    enqueue(id, v[6], v[7], t)
    table.insert(rows, {id, 'requeued', '', 'waiting'})
  end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'live', '-inf', t, 'LIMIT', 0, ARGV[2])) do look(id) end
return rows
