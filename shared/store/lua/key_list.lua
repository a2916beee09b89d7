#!lua flags=no-writes,allow-oom
-- All API keys -> rows {name, tenant, created, used} (Redis ms; used is 0 for one that never was)
local rows, names = {}, redis.call('HGETALL', P .. 'keys')
for i = 2, #names, 2 do
  table.insert(rows, redis.call('HMGET', P .. 'k:' .. names[i], 'name', 'tenant', 'created', 'used'))
end
return rows
