-- In front of every script, behind NEXT and SCHEMA of shared/core/lifecycle.py; the parts that its line "with" names come next.
-- KEYS[1] is the partition's prefix, "rs:{pp}:"; every other key is derived from it and has the same hash tag, so a script
-- touches one slot.
local P = KEYS[1]
local TAG = string.match(P, '{.-}')
local QUEUE, JOB = 'arq:queue:' .. TAG .. ':', 'arq:job:' .. TAG .. ':'
local LANES = {'foreground', 'background'}
local LOOK_MS = 30000           -- how often a waiting response is looked at
local PACK_MS = 60000           -- how long after the end a response is packed
local DAY_S = 86400

local started
local function now() -- stands still while a script runs
  if not started then
    local t = redis.call('TIME')
    started = t[1] * 1000 + t[2] / 1000
  end
  return started
end

-- Of a number as it is, Lua makes a text at many times the cost.
local function whole(number) return string.format('%d', number) end

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

-- behind: the number of the event behind these. All numbers are texts.
local function log(id, first, count, behind, frames)
  redis.call('XADD', P .. 'e:' .. id, behind .. '-0', 'f', first, 'n', count, 'd', frames)
end
