#!lua flags=allow-oom
-- Keep a worker's leases. ARGV: worker, lease_ms, then id and attempt of each
-- -> one word each: 'kept' | 'cancel' (kept, and a cancel is noted) | 'lost'
local worker, t, answers = ARGV[1], now(), {}
for i = 3, #ARGV, 2 do
  local v = redis.call('HMGET', P .. 'r:' .. ARGV[i], 'status', 'owner', 'attempt', 'cancel')
  if v[1] ~= 'in_progress' or v[2] ~= worker or v[3] ~= ARGV[i + 1] then
    table.insert(answers, 'lost')
  else
    redis.call('ZADD', P .. 'live', t + ARGV[2], ARGV[i])
    table.insert(answers, v[4] == '1' and 'cancel' or 'kept')
  end
end
return answers
