#!lua flags=allow-oom
-- with conversations
-- The items of a response's chain, oldest first, behind what the oldest link read of a conversation, if it is in one.
-- Lifetimes become at least keep_s from now, and little more; with 0 they are left alone.
-- ARGV: id of the newest link, tenant ('': the system itself asks), keep_s, max links, max bytes,
--       1 to start a new turn
-- -> {'ok', {id of a deleted item, ...}, {batch, ...}, input, output, input, output, ...} (all items are JSON arrays; the
--    deleted ones are still in the batches; an output may be packed, or in a packed log) | {'gone'} | {'long'} | {'running'}
local id, keep = ARGV[1], tonumber(ARGV[3])
-- A deleted response's block may live on for younger turns: without its record nobody may start from it. A new turn
-- (ARGV[6] = 1) only starts from one that is stored and has ended.
if ARGV[2] ~= '' then
  require_known(P .. 'r:' .. id)
  local v = redis.call('HMGET', P .. 'r:' .. id, 'tenant', 'store', 'status')
  if v[1] ~= ARGV[2] then return {'gone'} end
  if ARGV[6] == '1' and v[2] ~= '1' then return {'gone'} end
  if ARGV[6] == '1' and not terminal(v[3]) then return {'running'} end
end
local more = math.min(3600, keep / 10) -- so that not every turn has to write to every link
local most_links, most_bytes = tonumber(ARGV[4]), tonumber(ARGV[5])
local items, last, size, origin = {}, 0, 0, nil -- outputs and inputs, newest first
while id ~= '' do
  local key = P .. 'b:' .. id
  local b = redis.call('HMGET', key, 'parent', 'input', 'output', 'conversation', 'size', 'v')
  if b[6] and tonumber(b[6]) > SCHEMA then require_known(key) end -- it raises
  if not b[1] then return {'gone'} end
  local input, output = b[2] or '[]', b[3] or redis.call('HGET', key, 'log') or '[]'
  size = size + #input + (b[5] or #output)
  items[last + 1], items[last + 2], last = output, input, last + 2
  if last > 2 * most_links or size > most_bytes then return {'long'} end
  if keep > 0 then
    local ttl = redis.call('TTL', key)
    if ttl >= 0 and ttl < keep then redis.call('EXPIRE', key, whole(keep + more)) end
  end
  id, origin = b[1], b[4] and key
end
local deleted, batches = {}, {}
if origin then
  local conversation, read, dropped = unpack(redis.call('HMGET', origin, 'conversation', 'batches', 'dropped'))
  if redis.call('EXISTS', P .. 'c:' .. conversation) == 0 then return {'gone'} end
  if read ~= '0' then batches = redis.call('LRANGE', P .. 'ci:' .. conversation, 0, read - 1) end
  if dropped ~= '0' then deleted = redis.call('ZRANGE', P .. 'cd:' .. conversation, 0, dropped - 1) end
  for _, batch in ipairs(batches) do size = size + #batch end
  if size > most_bytes then return {'long'} end
  if keep > 0 then keep_conversation(conversation) end
end
local answer = {'ok', deleted, batches}
for i = last, 1, -1 do answer[4 + last - i] = items[i] end
return answer
