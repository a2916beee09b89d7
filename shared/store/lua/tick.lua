#!lua flags=allow-oom
-- with clock
-- A process lives and Redis answers. ARGV: lease_ms
-- -> {by final status how many have ended so far, unsettled, logs to pack, then of each lane: how many wait, since how many ms the first of them}
local t = now()
tick(t, tonumber(ARGV[1]))
local answer = {redis.call('HGETALL', P .. 'ends'), redis.call('ZCARD', P .. 'live'),
  redis.call('ZCARD', P .. 'pack')}
for _, lane in ipairs(LANES) do
  local first = redis.call('ZRANGE', QUEUE .. lane, 0, 0)[1]
  local since = first and redis.call('HGET', P .. 'r:' .. string.sub(first, #TAG + 2), 'created')
  table.insert(answer, redis.call('ZCARD', QUEUE .. lane))
  table.insert(answer, since and math.floor(t - since) or 0)
end
return answer
