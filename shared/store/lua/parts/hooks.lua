local HOOK_S = 259200           -- how long after its end a response is told of, at most (72 h)
local LAST_MS = 60000           -- how long before that the last attempt is made, so that the response can still be fetched
local WANTED_MS = 86400000      -- how long an endpoint counts that no worker asks for any more

-- hooks: endpoint -> "<Redis ms until which it counts> <tenant or *> <final statuses>"; written seldom, read at each end in the
-- background. hooks:<endpoint>: id -> Redis ms at which to send.
local function want(endpoint, rule, t)
  local till, known = string.match(redis.call('HGET', P .. 'hooks', endpoint) or '', '^(%d+) (.*)$')
  if known == rule and tonumber(till) > t + WANTED_MS / 2 then return end
  local hooks = redis.call('HGETALL', P .. 'hooks')
  for i = 1, #hooks, 2 do
    if tonumber(string.match(hooks[i + 1], '^%d+')) < t then redis.call('HDEL', P .. 'hooks', hooks[i]) end
  end
  redis.call('HSET', P .. 'hooks', endpoint, whole(t + WANTED_MS) .. ' ' .. rule)
  redis.call('PEXPIRE', P .. 'hooks', WANTED_MS)
end

-- The Redis ms at which a response is told of no longer.
local function hook_limit(ended, keep_s)
  return ended + math.min(tonumber(keep_s), HOOK_S) * 1000
end

-- A background response has ended: whoever wants to hear of it will.
local function note(id, status, tenant, t)
  local hooks = redis.call('HGETALL', P .. 'hooks')
  for i = 1, #hooks, 2 do
    local till, whose, statuses = string.match(hooks[i + 1], '^(%d+) (%S+) (.*)$')
    if tonumber(till) > t and (whose == '*' or whose == tenant) and string.find(statuses, status, 1, true) then
      redis.call('ZADD', P .. 'hooks:' .. hooks[i], whole(t), id)
      redis.call('EXPIRE', P .. 'hooks:' .. hooks[i], HOOK_S)
    end
  end
end
