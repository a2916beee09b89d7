#!lua flags=allow-oom
-- with conversations, blocks
-- Note that ended responses are to be listed by age, and remove the oldest of them. ARGV: how many at most (0: none), seconds that
-- the note counts, ms for which what has ended is left alone, ms after which everything has expired by itself
-- -> {how many were removed, how many are left}
local t, removed = now(), 0
redis.call('SET', P .. 'purging', '1', 'EX', ARGV[2])
redis.call('ZREMRANGEBYSCORE', P .. 'aged', '-inf', t - ARGV[4])
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'aged', '-inf', t - ARGV[3], 'LIMIT', 0, ARGV[1])) do
  local status = redis.call('HGET', P .. 'r:' .. id, 'status')
  if status and terminal(status) and not newer(P .. 'r:' .. id) then
    remove(id)
    removed = removed + 1
  else
    redis.call('ZREM', P .. 'aged', id) -- it has expired, or is of a newer version and expires by itself
  end
end
return {removed, redis.call('ZCARD', P .. 'aged')}
