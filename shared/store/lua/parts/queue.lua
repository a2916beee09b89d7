local function ring()
  if redis.call('LLEN', P .. 'bell') == 0 then
    redis.call('RPUSH', P .. 'bell', '1')
  end
end

-- Into its lane at its old place; waits on its record is t. Waiting is membership in a queue, not a status.
local function line_up(id, lane, order, t)
  redis.call('ZADD', QUEUE .. lane, order, TAG .. ':' .. id)
  redis.call('ZADD', P .. 'live', whole(t + LOOK_MS), id)
  ring()
end

local function enqueue(id, lane, order, t)
  redis.call('HSET', P .. 'r:' .. id, 'waits', whole(t))
  line_up(id, lane, order, t)
end

-- What a tenant has unfinished: 'active' responses (accepted, not settled), 'running' of them with an owner. Counted where a
-- record changes so, and nowhere else; the key goes with the last one.
local function running(tenant, change)
  redis.call('HINCRBY', P .. 't:' .. tenant, 'running', change)
end

local function unfinished(tenant, owner)
  local t = P .. 't:' .. tenant
  if redis.call('HINCRBY', t, 'active', -1) <= 0 then
    redis.call('DEL', t)
  elseif owner ~= '' then
    redis.call('HINCRBY', t, 'running', -1)
  end
end
