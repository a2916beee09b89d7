#!lua flags=allow-oom
-- with hooks
-- An attempt has come to an end. ARGV: endpoint, id, the how many-th it was, ms until the next one ('' when it was acknowledged)
-- -> 'ok' | 'again' | 'over' (there is no more time: it is given up) | 'lost' (another worker tries, or the response is gone)
local endpoint, id = ARGV[1], ARGV[2]
local due, r, tries = P .. 'hooks:' .. endpoint, P .. 'r:' .. id, 'hook:' .. endpoint
if ARGV[4] == '' then
  redis.call('ZREM', due, id)
  redis.call('HDEL', r, tries)
  return 'ok'
end
local v = redis.call('HMGET', r, tries, 'ended', 'keep_s')
if v[1] ~= ARGV[3] then return 'lost' end
local t = now()
local at, limit = t + ARGV[4], hook_limit(v[2], v[3])
if at > limit then at = limit - LAST_MS end  -- waits are long at the end: one more try as late as it makes sense
if at <= t then
  redis.call('ZREM', due, id)
  redis.call('HDEL', r, tries)
  return 'over'
end
redis.call('ZADD', due, 'XX', whole(at), id)
return 'again'
