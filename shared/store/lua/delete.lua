#!lua flags=allow-oom
-- Delete an ended response. Its block stays while younger turns need it. ARGV: id, tenant
-- -> 'ok' | 'gone' | 'running'
local id = ARGV[1]
local v = redis.call('HMGET', P .. 'r:' .. id, 'status', 'tenant')
if not v[1] or v[2] ~= ARGV[2] then return 'gone' end
if not terminal(v[1]) then return 'running' end
redis.call('DEL', P .. 'r:' .. id, P .. 'q:' .. id, P .. 'o:' .. id, P .. 'e:' .. id, JOB .. id)
redis.call('ZREM', P .. 'pack', id)
redis.call('HSET', P .. 'b:' .. id, 'deleted', 1)
while id ~= '' do
  local b = redis.call('HMGET', P .. 'b:' .. id, 'refs', 'deleted', 'parent', 'conversation', 'counted')
  if b[2] ~= '1' or tonumber(b[1]) > 0 then break end
  redis.call('DEL', P .. 'b:' .. id)
  if b[5] == '1' then leave_conversation(b[4]) end
  id = b[3]
  if id ~= '' and redis.call('EXISTS', P .. 'b:' .. id) == 1 then
    redis.call('HINCRBY', P .. 'b:' .. id, 'refs', -1)
  end
end
return 'ok'
