#!lua flags=allow-oom
-- with messages, queue, conversations, blocks, hooks, ending
-- Append and settle parts of many responses that ARGV[1] owns, in order. Then header and blob of each part:
--   "a <id> <attempt> <first> <count>"                                               blob: frames
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

local function append(header, blob)
  local id, attempt, first, count = string.match(header, '^a (%S+) (%d+) (%d+) (%d+)')
  local r, number = P .. 'r:' .. id, tonumber(first)
  local v = redis.call('HMGET', r, 'status', 'attempt', 'seq', 'cancel', 'owner', 'inboxes')
  local refused = check(v, attempt, number, count, false)
  if refused then return refused end
  if v[4] == '1' then return 'cancelled' end
  local behind = whole(number + count)
  log(id, first, count, behind, blob)
  redis.call('HSET', r, 'seq', behind, 'shown', '1')
  tell(v[6], 'e ' .. id .. ' ' .. first .. ' ' .. count, blob)
  return 'ok'
end

local function finish(header, blob)
  local id, attempt, first, count, status, frames, output, attempts =
    string.match(header, '^s (%S+) (%d+) (%d+) (%d+) (%S+) (%d+) (%d+) (%S*)')
  local v = redis.call('HMGET', P .. 'r:' .. id, 'status', 'attempt', 'seq', 'cancel', 'owner')
  local refused = check(v, attempt, tonumber(first), count, true)
  if refused then return refused end
  if v[4] == '1' and status ~= 'cancelled' then return 'cancelled' end
  if not NEXT[v[1]][status] then return 'fenced' end
  settle(id, status, first, count, string.sub(blob, 1, frames), string.sub(blob, frames + 1), tonumber(output),
    attempts ~= '' and attempts or nil)
  return 'ok'
end

local answers, APPEND = {}, string.byte('a')
for i = 2, #ARGV, 2 do
  answers[#answers + 1] = (string.byte(ARGV[i]) == APPEND and append or finish)(ARGV[i], ARGV[i + 1])
end
send()
return answers
