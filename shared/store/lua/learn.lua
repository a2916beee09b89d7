#!lua flags=allow-oom
-- What backends said about the size of their input, summed up per model; a sum that grows too large is halved, so that old
-- observations fade. ARGV: most models, keep_s, tokens of a too large sum, then model, bytes, tokens by turns -> 1
local k, most, cap = P .. 'ratios', tonumber(ARGV[1]), tonumber(ARGV[3])
for i = 4, #ARGV, 3 do
  local model, bytes, tokens = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local known = redis.call('HGET', k, model)
  if known then
    local b, t = string.match(known, '^(%d+) (%d+)$')
    bytes, tokens = bytes + tonumber(b), tokens + tonumber(t)
  end
  while tokens > cap do bytes, tokens = bytes / 2, tokens / 2 end
  if known or redis.call('HLEN', k) < most then
    redis.call('HSET', k, model, string.format('%d %d', math.floor(bytes), math.floor(tokens)))
  end
end
redis.call('EXPIRE', k, ARGV[2])
return 1
