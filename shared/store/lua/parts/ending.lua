local PACK_BYTES = 4096         -- the least output that is packed where there is no log

-- The Response is kept in the block as its output and, around it, the rest: what is said twice is stored once.
local function keep_object(b, object, size)
  local _, at = string.find(object, '"output":', 1, true) -- no text comes before it that could hold this, unescaped
  local output = string.sub(object, at + 1, at + size)
  redis.call('HSET', b, 'output', output, 'at', whole(at), 'object',
    string.sub(object, 1, at) .. string.sub(object, at + size + 1))
  return output
end

-- The one way to a terminal status. The caller has checked attempt, status and cancel. first and count are texts; size is that
-- of the output in object; attempts tells of the calls to backends, nil when there is nothing to tell.
local function settle(id, status, first, count, frames, object, size, attempts)
  local r, b, t = P .. 'r:' .. id, P .. 'b:' .. id, now()
  local v = redis.call('HMGET', r, 'owner', 'inboxes', 'stream', 'keep_s', 'lane', 'store', 'tenant', 'attempts')
  local owner, inboxes, stream, keep_s = v[1], v[2], v[3] == '1', v[4]
  local output = keep_object(b, object, size)
  local c = redis.call('HMGET', b, 'begin', 'conversation', 'parent')
  if c[1] then redis.call('HDEL', b, 'begin') end -- nobody has claimed it
  if c[2] then end_turn(c[2], id, status, output) end
  if v[6] == '0' then -- it is never a parent, and expires without a word: what it read need not be kept for it
    redis.call('HSET', b, 'freed', '1')
    unrefer(c[3])
    drop_block(c[3])
  end
  redis.call('EXPIRE', b, keep_s)
  local behind = whole(first + count)
  if stream then
    log(id, first, count, behind, frames)
    redis.call('EXPIRE', P .. 'e:' .. id, keep_s)
    tell(inboxes, 'z ' .. id .. ' ' .. first .. ' ' .. count, frames)
  else
    tell(inboxes, 's ' .. id .. ' ' .. status .. ' ' .. (attempts or '-'), object)
  end
  redis.call('HSET', r, 'status', status, 'seq', behind, 'owner', '', 'inboxes', '', 'ended', whole(t),
    'attempts', attempts or v[8] or '')
  redis.call('EXPIRE', r, keep_s)
  if (stream or size > PACK_BYTES) and tonumber(keep_s) * 1000 > 2 * PACK_MS then
    redis.call('ZADD', P .. 'pack', whole(t + PACK_MS), id)
  end
  if redis.call('EXISTS', P .. 'purging') == 1 then
    redis.call('ZADD', P .. 'aged', whole(t), id)
    if redis.call('TTL', P .. 'aged') < tonumber(keep_s) then redis.call('EXPIRE', P .. 'aged', keep_s) end
  end
  if v[5] == 'background' then note(id, status, v[7], t) end
  redis.call('DEL', P .. 'q:' .. id, JOB .. id)
  redis.call('ZREM', P .. 'live', id)
  if owner == '' then redis.call('ZREM', QUEUE .. v[5], TAG .. ':' .. id) end
  unfinished(v[7], owner)
  if redis.call('HINCRBY', P .. 'ends', status, '1') == 1 then redis.call('EXPIRE', P .. 'ends', DAY_S) end -- tick renews it
end
