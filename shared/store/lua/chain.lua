#!lua flags=allow-oom
-- The items of a response's chain, oldest first, and lifetimes at least keep_s from now.
-- ARGV: id of the newest link, tenant ('': the system itself asks), keep_s, max links, max bytes
-- -> {'ok', input, output, input, output, ...} (JSON arrays) | {'gone'} | {'long'}
local id, keep = ARGV[1], tonumber(ARGV[3])
-- A deleted response's block may live on for younger turns: without its record nobody may start from it.
if ARGV[2] ~= '' and redis.call('HGET', P .. 'r:' .. id, 'tenant') ~= ARGV[2] then return {'gone'} end
local links, size = {}, 0
while id ~= '' do
  local key = P .. 'b:' .. id
  local b = redis.call('HMGET', key, 'parent', 'input', 'output')
  if not b[1] then return {'gone'} end
  local input, output = b[2] or '[]', b[3] or '[]'
  size = size + #input + #output
  table.insert(links, {input, output})
  if #links > tonumber(ARGV[4]) or size > tonumber(ARGV[5]) then return {'long'} end
  local ttl = redis.call('TTL', key)
  if ttl >= 0 and ttl < keep then redis.call('EXPIRE', key, keep) end
  id = b[1]
end
local answer = {'ok'}
for i = #links, 1, -1 do
  table.insert(answer, links[i][1])
  table.insert(answer, links[i][2])
end
return answer
