#!lua flags=allow-oom
-- Take waiting responses for a worker, in one step with their lease and response.in_progress.
-- ARGV: worker, call number, free slots, lease_ms, lanes in order of preference
-- -> a row per response: {id, attempt, seq, tries, releases, stream, age_ms, request_id, lane, parent, request, input,
--    tenant, calls to backends so far, those of the turn before}
--    or {id, v}: one of a newer version stays where it was
-- A repeated call number gets the last answer again: a lost reply strands nothing.
local worker, wanted, lease = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local memo = P .. 'claimed:' .. worker
local t, rows, ids = now(), {}, {}
local MAX_SKIPPED = 100 -- so many of a newer version may stand before one that we know
local skipped = {}

local function row(id)
  local v = redis.call('HMGET', P .. 'r:' .. id, 'attempt', 'seq', 'tries', 'releases', 'stream', 'created',
    'request_id', 'lane', 'tenant', 'attempts')
  local b = redis.call('HMGET', P .. 'b:' .. id, 'parent', 'input', 'conversation')
  local before = b[1]
  if b[3] then before = redis.call('HGET', P .. 'c:' .. b[3], 'last') end
  before = before and before ~= '' and redis.call('HGET', P .. 'r:' .. before, 'attempts')
  local request = redis.call('GET', P .. 'q:' .. id)
  table.insert(rows, {id, v[1], v[2], v[3], v[4], v[5],
    string.format('%d', t - v[6]), v[7], v[8], b[1] or '', request or '', b[2] or '[]', v[9], v[10] or '', before or ''})
  table.insert(ids, id)
end

local function take(id, lane, order)
  local r, b = P .. 'r:' .. id, P .. 'b:' .. id
  local v = redis.call('HMGET', r, 'status', 'owner', 'stream', 'seq', 'inboxes', 'polled', 'tenant', 'attempt', 'v')
  if not v[1] or terminal(v[1]) or v[2] ~= '' then return end
  if v[9] and tonumber(v[9]) > SCHEMA then
    table.insert(skipped, {lane, order, id, v[9]})
    return
  end
  redis.call('HSET', r, 'attempt', v[8] + 1, 'status', 'in_progress', 'owner', worker)
  running(v[7], 1)
  redis.call('ZADD', P .. 'live', t + lease, id)
  local begin = redis.call('HGET', b, 'begin')
  if begin then
    if v[3] == '1' then
      log(id, v[4], 1, begin)
      redis.call('HSET', r, 'seq', v[4] + 1)
      tell(v[5], 'e ' .. id .. ' ' .. v[4] .. ' 1', begin)
    elseif v[6] then
      tell(v[5], 'p ' .. id .. ' in_progress 0', '')
    end
    redis.call('HDEL', b, 'begin')
  end
  row(id)
end

local last = redis.call('HMGET', memo, 'call', 'ids')
if last[1] == ARGV[2] then
  for id in string.gmatch(last[2], '%S+') do
    if redis.call('HGET', P .. 'r:' .. id, 'owner') == worker then row(id) end
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
