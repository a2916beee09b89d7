-- Redis time once a second from every process. A gap means that Redis was away: leases then get one full lease more.
local function tick(t, lease_ms)
  local last = redis.call('GET', P .. 'tick')
  redis.call('SET', P .. 'tick', whole(t), 'EX', DAY_S)
  redis.call('EXPIRE', P .. 'ends', DAY_S)
  if last and t - last > 2000 then redis.call('SET', P .. 'grace', '1', 'PX', lease_ms) end
end
