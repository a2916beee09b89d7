-- A conversation: a record, a list of batches of items (JSON arrays, never decoded here), and the ids of deleted items in the
-- order of their deletion. Batches and deleted ids are only ever added, so two numbers tell what a response has read.

-- Whether the holder of a lock still runs; a lock whose holder has ended or is gone is free.
local function holds(lock)
  local status = lock ~= '' and redis.call('HGET', P .. 'r:' .. lock, 'status')
  return status and not terminal(status)
end

-- From now on it lives for keep_s; while a response holds it, it does not expire.
local function keep_conversation(id)
  local v = redis.call('HMGET', P .. 'c:' .. id, 'keep_s', 'lock')
  if not v[1] then return end
  local held = holds(v[2])
  for _, kind in ipairs({'c:', 'ci:', 'cd:'}) do
    if held then redis.call('PERSIST', P .. kind .. id) else redis.call('EXPIRE', P .. kind .. id, v[1]) end
  end
end

local function add_items(id, items)
  if items == '[]' then return end
  redis.call('RPUSH', P .. 'ci:' .. id, items)
  redis.call('HINCRBY', P .. 'c:' .. id, 'size', #items)
end

local function drop_conversation(id)
  redis.call('DEL', P .. 'c:' .. id, P .. 'ci:' .. id, P .. 'cd:' .. id)
end

-- A block that refers to a conversation is removed.
local function leave_conversation(id)
  local v = redis.call('HMGET', P .. 'c:' .. id, 'deleted', 'refs')
  if not v[1] then return end
  redis.call('HINCRBY', P .. 'c:' .. id, 'refs', -1)
  if v[1] == '1' and tonumber(v[2]) <= 1 then drop_conversation(id) end
end

-- The response that holds a conversation has ended: its items are added when it has an answer, and the next one may come.
local function end_turn(id, response, status, output)
  local c = P .. 'c:' .. id
  local v = redis.call('HMGET', c, 'lock', 'deleted')
  if v[1] ~= response then return end
  redis.call('HSET', c, 'lock', '', 'last', response)
  if v[2] ~= '1' and (status == 'completed' or status == 'incomplete') then
    add_items(id, redis.call('HGET', P .. 'b:' .. response, 'input'))
    add_items(id, output)
  end
  keep_conversation(id)
end
