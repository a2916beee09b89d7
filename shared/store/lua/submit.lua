#!lua
-- Accept a response, whole or not at all. Refused by Redis itself at maxmemory (no allow-oom).
-- ARGV: id, tenant, lane, inbox, stream, background, store (each 0 or 1), keep_s, parent, max_queue, request_id,
--       request, object, input, job, first frames, their count, frame of response.in_progress
-- -> {'ok'} | {'full', depth} | {'parent'}. Repeated: {'ok'}.
local id, lane, parent = ARGV[1], ARGV[3], ARGV[9]
local r = P .. 'r:' .. id
if redis.call('EXISTS', r) == 1 then return {'ok'} end
local depth = 0
for _, each in ipairs(LANES) do depth = depth + redis.call('ZCARD', QUEUE .. each) end
if depth >= tonumber(ARGV[10]) then return {'full', depth} end
if parent ~= '' then
  local p = redis.call('HMGET', P .. 'r:' .. parent, 'status', 'tenant', 'store')
  if not p[1] or p[2] ~= ARGV[2] or p[3] ~= '1' or not terminal(p[1]) then return {'parent'} end
  redis.call('HINCRBY', P .. 'b:' .. parent, 'refs', 1)
end
local t = now()
local count = tonumber(ARGV[17])
redis.call('HSET', r, 'v', 1, 'status', 'queued', 'tenant', ARGV[2], 'lane', lane, 'inboxes', ARGV[4], 'stream', ARGV[5],
  'background', ARGV[6], 'store', ARGV[7], 'keep_s', ARGV[8], 'request_id', ARGV[11], 'begin', ARGV[18], 'owner', '',
  'attempt', 0, 'crashes', 0, 'tries', 0, 'releases', 0, 'takeovers', 0, 'shown', 0, 'cancel', 0,
  'seq', count, 'created', t, 'order', t)
redis.call('SET', P .. 'q:' .. id, ARGV[12])
redis.call('SET', P .. 'o:' .. id, ARGV[13])
redis.call('HSET', P .. 'b:' .. id, 'v', 1, 'parent', parent, 'input', ARGV[14], 'refs', 0)
redis.call('SET', JOB .. id, ARGV[15])
if count > 0 then log(id, 0, count, ARGV[16]) end
enqueue(id, lane, t, t)
return {'ok'}
