#!lua flags=allow-oom
-- with messages, queue
-- Take waiting responses for a worker, in one step with their lease and response.in_progress.
-- ARGV: worker, call number, free slots, lease_ms, lanes in order of preference
-- -> a row per response: {id, attempt, seq, tries, releases, stream, age_ms, request_id, lane, parent, request, input,
--    tenant, calls to backends so far, those of the turn before}
--    or {id, v}: one of a newer version stays where it was
-- A repeated call number gets the last answer again: a lost reply strands nothing.
local worker, wanted, lease = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local memo = P .. 'claimed:' .. worker
local t, rows, ids = now(), {}, {}
local due = whole(t + lease)
local MAX_SKIPPED = 100 -- so many of a newer version may stand before one that we know
local skipped = {}

-- How a response stands, and what of it row needs. In this order, the names below are places in it.
local function look(id)
  return redis.call('HMGET', P .. 'r:' .. id, 'status', 'attempt', 'seq', 'owner', 'inboxes', 'v', 'tenant', 'lane', 'stream',
    'request_id', 'tries', 'releases', 'created', 'attempts', 'polled')
end
local STATUS, ATTEMPT, SEQ, OWNER, INBOXES, VERSION, TENANT, LANE, STREAM, REQUEST_ID, TRIES, RELEASES, CREATED, ATTEMPTS, POLLED =
  1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15

local function row(id, v, b)
  local before = b[3]
  if b[4] then before = redis.call('HGET', P .. 'c:' .. b[4], 'last') end
  before = before and before ~= '' and redis.call('HGET', P .. 'r:' .. before, 'attempts')
  local request = redis.call('GET', P .. 'q:' .. id)
  rows[#rows + 1] = {id, v[ATTEMPT], v[SEQ], v[TRIES], v[RELEASES], v[STREAM], whole(t - v[CREATED]), v[REQUEST_ID],
    v[LANE], b[3] or '', request or '', b[2] or '[]', v[TENANT], v[ATTEMPTS] or '', before or ''}
  ids[#ids + 1] = id
end

local function block(id)
  return redis.call('HMGET', P .. 'b:' .. id, 'begin', 'input', 'parent', 'conversation')
end

local function take(id, lane, order)
  local v = look(id)
  if not v[STATUS] or terminal(v[STATUS]) or v[OWNER] ~= '' then return end
  if v[VERSION] and tonumber(v[VERSION]) > SCHEMA then
    table.insert(skipped, {lane, order, id, v[VERSION]})
    return
  end
  local r, b, seq = P .. 'r:' .. id, block(id), v[SEQ]
  if b[1] then
    if v[STREAM] == '1' then
      v[SEQ] = whole(seq + 1)
      log(id, seq, '1', v[SEQ], b[1])
      tell(v[INBOXES], 'e ' .. id .. ' ' .. seq .. ' 1', b[1])
    elseif v[POLLED] then
      tell(v[INBOXES], 'p ' .. id .. ' in_progress 0', '')
    end
    redis.call('HDEL', P .. 'b:' .. id, 'begin')
  end
  v[ATTEMPT] = whole(v[ATTEMPT] + 1)
  redis.call('HSET', r, 'status', 'in_progress', 'attempt', v[ATTEMPT], 'seq', v[SEQ], 'owner', worker)
  running(v[TENANT], '1')
  redis.call('ZADD', P .. 'live', due, id)
  row(id, v, b)
end

local last = redis.call('HMGET', memo, 'call', 'ids')
if last[1] == ARGV[2] then
  for id in string.gmatch(last[2], '%S+') do
    local v = look(id)
    if v[OWNER] == worker then row(id, v, block(id)) end
  end
  return rows
end
if tonumber(last[1] or 0) > tonumber(ARGV[2]) then return rows end -- late: nobody waits for it any more
local left = 0
for i = 5, #ARGV do
  local more = true
  while more and #ids < wanted and #skipped < MAX_SKIPPED do
    local asked = wanted - #ids
    local members = redis.call('ZPOPMIN', QUEUE .. ARGV[i], asked)
    for m = 1, #members, 2 do take(string.sub(members[m], #TAG + 2), ARGV[i], members[m + 1]) end
    more = #members == 2 * asked
  end
  if more then left = left + redis.call('ZCARD', QUEUE .. ARGV[i]) end
end
for _, each in ipairs(skipped) do -- not counted as left: a bell would wake us for nothing
  redis.call('ZADD', QUEUE .. each[1], each[2], TAG .. ':' .. each[3])
  table.insert(rows, {each[3], each[4]})
end
if #ids > 0 then
  redis.call('HSET', memo, 'call', ARGV[2], 'ids', table.concat(ids, ' '))
  redis.call('EXPIRE', memo, 10)
end
if left == 0 then redis.call('DEL', P .. 'bell') else ring() end
send()
return rows
