#!lua flags=allow-oom
-- Append and settle parts of many responses that ARGV[1] owns, in order. Then header and blob of each part:
--   "a <id> <attempt> <first> <count> <shown>"                                       blob: frames
--   "s <id> <attempt> <first> <count> <status> <bytes of frames> <bytes of output in the object> <attempts at backends>"
--                                                                                    blob: frames, object
-- -> one word per part: 'ok' (also for a repeated part) | 'gone' | 'fenced' | 'cancelled' | 'behind <seq>'
local who = ARGV[1]

-- A Redis that lost its last second may have given the same attempt to two owners: both are compared.
local function check(v, attempt, first, count, settles)
  if not v[1] then return 'gone' end
  if v[2] ~= attempt then return 'fenced' end
  if v[5] ~= who and not terminal(v[1]) then return 'fenced' end
  if settles and terminal(v[1]) then return 'ok' end
  if not settles and first + count <= tonumber(v[3]) then return 'ok' end
  if v[1] ~= 'in_progress' then return 'fenced' end
  if first ~= tonumber(v[3]) then return 'behind ' .. v[3] end
end

local function append(words, blob)
  local id, first, count = words[2], tonumber(words[4]), tonumber(words[5])
  local r = P .. 'r:' .. id
  local v = redis.call('HMGET', r, 'status', 'attempt', 'seq', 'cancel', 'owner', 'inboxes')
  local refused = check(v, words[3], first, count, false)
  if refused then return refused end
  if v[4] == '1' then return 'cancelled' end
  log(id, first, count, blob)
  redis.call('HSET', r, 'seq', first + count)
  if words[6] == '1' then redis.call('HSET', r, 'shown', 1) end
  tell(v[6], 'e ' .. id .. ' ' .. first .. ' ' .. count, blob)
  return 'ok'
end

local function finish(words, blob)
  local id, first, count, status = words[2], tonumber(words[4]), tonumber(words[5]), words[6]
  local v = redis.call('HMGET', P .. 'r:' .. id, 'status', 'attempt', 'seq', 'cancel', 'owner')
  local refused = check(v, words[3], first, count, true)
  if refused then return refused end
  if v[4] == '1' and status ~= 'cancelled' then return 'cancelled' end
  if not NEXT[v[1]][status] then return 'fenced' end
  local frames_end = tonumber(words[7])
  settle(id, status, first, count, string.sub(blob, 1, frames_end), string.sub(blob, frames_end + 1), tonumber(words[8]),
    words[9])
  return 'ok'
end

local answers = {}
for i = 2, #ARGV, 2 do
  local words = {}
  for word in string.gmatch(ARGV[i], '%S+') do table.insert(words, word) end
  table.insert(answers, (words[1] == 'a' and append or finish)(words, ARGV[i + 1]))
end
send()
return answers
