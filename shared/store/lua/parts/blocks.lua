-- A younger turn needs this block no more.
local function unrefer(id)
  if id == '' or redis.call('EXISTS', P .. 'b:' .. id) == 0 then return end
  redis.call('HINCRBY', P .. 'b:' .. id, 'refs', -1)
end

-- Remove a block that is deleted and that no younger turn needs; removal goes on up the chain.
local function drop_block(id)
  while id and id ~= '' do
    local b = redis.call('HMGET', P .. 'b:' .. id, 'refs', 'deleted', 'parent', 'conversation', 'counted', 'freed')
    if b[2] ~= '1' or tonumber(b[1]) > 0 then return end
    redis.call('DEL', P .. 'b:' .. id)
    if b[5] == '1' then leave_conversation(b[4]) end
    if b[6] == '1' then return end
    unrefer(b[3])
    id = b[3]
  end
end

-- Remove an ended response; its block stays while younger turns need it.
local function remove(id)
  redis.call('DEL', P .. 'r:' .. id, P .. 'q:' .. id, P .. 'e:' .. id, JOB .. id)
  redis.call('ZREM', P .. 'pack', id)
  redis.call('ZREM', P .. 'aged', id)
  redis.call('HDEL', P .. 'b:' .. id, 'object', 'at')
  redis.call('HSET', P .. 'b:' .. id, 'deleted', 1)
  drop_block(id)
end
