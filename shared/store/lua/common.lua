-- Put in front of every script. KEYS[1] is the partition's prefix, "rs:{pp}:"; every other key is derived from it and
-- has the same hash tag, so a script touches one slot. NEXT comes from shared/core/lifecycle.py.
local P = KEYS[1]
local TAG = string.match(P, '{.-}')
local QUEUE, JOB = 'arq:queue:' .. TAG .. ':', 'arq:job:' .. TAG .. ':'
local LANES = {'foreground', 'background'}
local LOOK_MS = 30000           -- how often a waiting response is looked at
local PACK_MS = 60000           -- how long after the end a response is packed
local PACK_BYTES = 4096         -- the least output that is packed where there is no log
local MAX_MESSAGE_BYTES = 65536 -- a larger batch is only announced
local MAX_PUBLISHED_BYTES = 4194304 -- of one script: more would cut the subscribers' connections
local MAX_INBOXES = 32
-- What of a record is of no use once it has ended
local RUN_FIELDS = {'inboxes', 'owner', 'lane', 'order', 'waits', 'crashes', 'tries', 'releases', 'takeovers', 'cancel', 'polled'}
local DAY_S = 86400
local IDEMPOTENT_S = DAY_S      -- how long an Idempotency-Key counts, if its response lives so long

local started
local function now() -- stands still while a script runs
  if not started then
    local t = redis.call('TIME')
    started = t[1] * 1000 + t[2] / 1000
  end
  return started
end

-- A record of a newer version is left to processes of that version: nothing is read of it, and nothing written.
local function newer(key)
  local v = redis.call('HGET', key, 'v')
  return v and tonumber(v) > SCHEMA and v
end

local function require_known(key)
  local v = newer(key)
  if v then error({err = 'NEWER ' .. v .. ' is the version of ' .. key}) end
end

local function terminal(status)
  return next(NEXT[status]) == nil
end

-- Messages to inboxes, one PUBLISH each: lines "<kind> <id> <a> <b> <size>", an empty line, then the blobs in order.
-- Kinds: e events, z the last events, s settled (no events), c cancel; a, y, r: as e, z, s, but too large to be sent.
local outgoing, published = {}, 0
local function tell(inboxes, head, blob)
  if #blob > MAX_MESSAGE_BYTES or published > MAX_PUBLISHED_BYTES then
    head, blob = string.gsub(head, '^%a', {e = 'a', z = 'y', s = 'r'}), ''
  end
  for inbox in string.gmatch(inboxes, '%S+') do
    local out = outgoing[inbox]
    if not out then
      out = {heads = {}, blobs = {}}
      outgoing[inbox] = out
    end
    table.insert(out.heads, head .. ' ' .. #blob)
    table.insert(out.blobs, blob)
    published = published + #blob
  end
end

local function send()
  for inbox, out in pairs(outgoing) do
    redis.call('PUBLISH', 'rs:in:' .. inbox, table.concat(out.heads, '\n') .. '\n\n' .. table.concat(out.blobs))
  end
end

local function ring()
  if redis.call('LLEN', P .. 'bell') == 0 then
    redis.call('RPUSH', P .. 'bell', '1')
  end
end

-- Into its lane at its old place; waits on its record is t. Waiting is membership in a queue, not a status.
local function line_up(id, lane, order, t)
  redis.call('ZADD', QUEUE .. lane, order, TAG .. ':' .. id)
  redis.call('ZADD', P .. 'live', t + LOOK_MS, id)
  ring()
end

local function enqueue(id, lane, order, t)
  redis.call('HSET', P .. 'r:' .. id, 'waits', t)
  line_up(id, lane, order, t)
end

local function log(id, first, count, frames)
  redis.call('XADD', P .. 'e:' .. id, (first + count) .. '-0', 'f', first, 'n', count, 'd', frames)
end

local function watch_with(id, inboxes, inbox)
  local seen = 0
  for each in string.gmatch(inboxes, '%S+') do
    if each == inbox then return end
    seen = seen + 1
  end
  if seen < MAX_INBOXES then
    redis.call('HSET', P .. 'r:' .. id, 'inboxes', inboxes == '' and inbox or inboxes .. ' ' .. inbox)
  end
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

-- What an Idempotency-Key stands for: nil (it is free, or its response is gone) | 'reused' (it came with another body) |
-- the id of its response
local function recalled(tenant, hash, body)
  local made, from = string.match(redis.call('GET', P .. 'idem:' .. tenant .. ':' .. hash) or '', '^(%S+) (%S+)$')
  if not made or redis.call('EXISTS', P .. 'r:' .. made) == 0 then return nil end
  return from == body and made or 'reused'
end

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

-- The Response is kept in the block as its output and, around it, the rest: what is said twice is stored once.
local function keep_object(b, object, size)
  local _, at = string.find(object, '"output":', 1, true) -- no text comes before it that could hold this, unescaped
  local output = string.sub(object, at + 1, at + size)
  redis.call('HSET', b, 'output', output, 'at', at, 'object', string.sub(object, 1, at) .. string.sub(object, at + size + 1))
  return output
end

-- The one way to a terminal status. The caller has checked attempt, status and cancel. size is that of the output in object;
-- attempts tells of the calls to backends, nil when there is nothing to tell.
local function settle(id, status, first, count, frames, object, size, attempts)
  local r, b = P .. 'r:' .. id, P .. 'b:' .. id
  local v = redis.call('HMGET', r, 'stream', 'keep_s', 'inboxes', 'lane', 'store', 'tenant', 'owner', 'attempts')
  local output = keep_object(b, object, size)
  local conversation = redis.call('HGET', b, 'conversation')
  if conversation then end_turn(conversation, id, status, output) end
  if v[5] == '0' then -- it is never a parent, and expires without a word: what it read need not be kept for it
    local parent = redis.call('HGET', b, 'parent')
    redis.call('HSET', b, 'freed', 1)
    unrefer(parent)
    drop_block(parent)
  end
  if redis.call('TTL', b) < tonumber(v[2]) then redis.call('EXPIRE', b, v[2]) end
  if v[1] == '1' then
    log(id, first, count, frames)
    redis.call('EXPIRE', P .. 'e:' .. id, v[2])
    tell(v[3], 'z ' .. id .. ' ' .. first .. ' ' .. count, frames)
  else
    tell(v[3], 's ' .. id .. ' ' .. status .. ' ' .. (attempts or '-'), object)
  end
  redis.call('HSET', r, 'status', status, 'seq', first + count, 'owner', '', 'inboxes', '', 'ended', now(),
    'attempts', attempts or v[8] or '')
  redis.call('HDEL', b, 'begin') -- still there if nobody has claimed it
  redis.call('EXPIRE', r, v[2])
  if (v[1] == '1' or size > PACK_BYTES) and tonumber(v[2]) * 1000 > 2 * PACK_MS then
    redis.call('ZADD', P .. 'pack', now() + PACK_MS, id)
  end
  if redis.call('EXISTS', P .. 'purging') == 1 then
    redis.call('ZADD', P .. 'aged', now(), id)
    if redis.call('TTL', P .. 'aged') < tonumber(v[2]) then redis.call('EXPIRE', P .. 'aged', v[2]) end
  end
  redis.call('DEL', P .. 'q:' .. id, JOB .. id)
  redis.call('ZREM', P .. 'live', id)
  redis.call('ZREM', QUEUE .. v[4], TAG .. ':' .. id)
  unfinished(v[6], v[7])
  if redis.call('HINCRBY', P .. 'ends', status, 1) == 1 then redis.call('EXPIRE', P .. 'ends', DAY_S) end -- tick renews it
end

-- Redis time once a second from every process. A gap means that Redis was away: leases then get one full lease more.
local function tick(t, lease_ms)
  local last = redis.call('GET', P .. 'tick')
  redis.call('SET', P .. 'tick', string.format('%d', t), 'EX', DAY_S)
  redis.call('EXPIRE', P .. 'ends', DAY_S)
  if last and t - last > 2000 then redis.call('SET', P .. 'grace', '1', 'PX', lease_ms) end
end
