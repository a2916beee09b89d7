#!lua flags=allow-oom
-- Who a key belongs to; its use is noted, at most once a minute. ARGV: its sha256 -> {name, tenant} | {}
local k = P .. 'k:' .. ARGV[1]
local v = redis.call('HMGET', k, 'name', 'tenant', 'used')
if not v[1] then return {} end
local t = now()
if t - v[3] > 60000 then redis.call('HSET', k, 'used', string.format('%d', t)) end
return {v[1], v[2]}
