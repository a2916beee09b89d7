#!lua flags=allow-oom
-- with messages
-- Register an inbox for what comes, and read the log behind a number, in one step.
-- ARGV: id, tenant ('': the system itself asks), inbox ('' registers nothing), number of the last event seen (-1: none), page_bytes
-- -> {} when there is no such response | {status, seq, stream, background, store, first, count, frames, first, ...};
--    a packed log comes whole, as {..., 0, -1, packed}
require_known(P .. 'r:' .. ARGV[1])
local id, after = ARGV[1], tonumber(ARGV[4])
local r, e = P .. 'r:' .. id, P .. 'e:' .. id
local v = redis.call('HMGET', r, 'status', 'seq', 'stream', 'background', 'store', 'tenant', 'inboxes')
if not v[1] or (ARGV[2] ~= '' and v[6] ~= ARGV[2]) then return {} end
if ARGV[3] ~= '' and not terminal(v[1]) then watch_with(id, v[7], ARGV[3]) end
local answer, size, from = {v[1], v[2], v[3], v[4], v[5]}, 0, string.format('%d-0', after + 2)
local packed = redis.call('HGET', P .. 'b:' .. id, 'log')
if packed then
  for _, part in ipairs({'0', '-1', packed}) do table.insert(answer, part) end
  return answer
end
-- No more is read than a page takes: an entry may be as large as one, and 64 of them at once would hold up everybody.
local limit, count = tonumber(ARGV[5]), 1
repeat
  local entries = redis.call('XRANGE', e, from, '+', 'COUNT', count)
  for _, entry in ipairs(entries) do
    local fields = entry[2]
    if size > 0 and size + #fields[6] > limit then return answer end
    table.insert(answer, fields[2])
    table.insert(answer, fields[4])
    table.insert(answer, fields[6])
    size, from = size + #fields[6], '(' .. entry[1]
  end
  local more = #entries == count
  local mean = size / ((#answer - 5) / 3)
  count = math.max(1, math.min(64, math.floor((limit - size) / mean)))
until not more
return answer
