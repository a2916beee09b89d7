#!lua
-- with queue, idempotency, conversations
-- Accept a response, whole or not at all. Refused by Redis itself at maxmemory (no allow-oom).
-- ARGV: id, tenant, lane, inbox, stream, background, store (each 0 or 1), keep_s, parent, max_queue, request_id,
--       request, object, input, job, first frames, their count, frame of response.in_progress,
--       conversation, numbers of batches and of deleted items that were read of it, head_start_ms,
--       hashes of the Idempotency-Key and of the body ('' without one), most waiting and most unfinished responses of
--       the tenant (0: no cap)
-- -> {'ok'} | {'full', depth} | {'capped'} (the tenant has too many) | {'parent'} | {'conversation'} (there is no such one) | {'locked'} (in use, or written to
--    since it was read) | {'made'} (by an earlier call with that Idempotency-Key) | {'reused'} (it came with another body).
--    Repeated: {'ok'}.
local id, tenant, lane, parent, conversation = ARGV[1], ARGV[2], ARGV[3], ARGV[9], ARGV[19]
local TURN_S = DAY_S -- how long a tenant's last place counts: as long as what has it may wait
local r = P .. 'r:' .. id
if redis.call('EXISTS', r) == 1 then return {'ok'} end
if ARGV[23] ~= '' then
  local made = recalled(tenant, ARGV[23], ARGV[24])
  if made then return {made == 'reused' and made or 'made'} end
end
if parent ~= '' then require_known(P .. 'r:' .. parent) end
if conversation ~= '' then require_known(P .. 'c:' .. conversation) end
local depth = 0
for _, each in ipairs(LANES) do depth = depth + redis.call('ZCARD', QUEUE .. each) end
if depth >= tonumber(ARGV[10]) then return {'full', depth} end
local most_waiting, most_active = tonumber(ARGV[25]), tonumber(ARGV[26])
if most_waiting > 0 or most_active > 0 then
  local has = redis.call('HMGET', P .. 't:' .. tenant, 'active', 'running')
  local active, running = tonumber(has[1] or 0), tonumber(has[2] or 0)
  if most_active > 0 and active >= most_active or most_waiting > 0 and active - running >= most_waiting then
    return {'capped'}
  end
end
if parent ~= '' then
  local p = redis.call('HMGET', P .. 'r:' .. parent, 'status', 'tenant', 'store')
  if not p[1] or p[2] ~= tenant or p[3] ~= '1' or not terminal(p[1]) then return {'parent'} end
  redis.call('HINCRBY', P .. 'b:' .. parent, 'refs', 1)
end
if conversation ~= '' then
  local c = P .. 'c:' .. conversation
  local v = redis.call('HMGET', c, 'tenant', 'deleted', 'lock')
  if not v[1] or v[1] ~= tenant or v[2] == '1' then return {'conversation'} end
  if ARGV[7] == '1' then -- with store=false it only reads
    local batches, deleted = redis.call('LLEN', P .. 'ci:' .. conversation), redis.call('ZCARD', P .. 'cd:' .. conversation)
    if holds(v[3]) or batches ~= tonumber(ARGV[20]) or deleted ~= tonumber(ARGV[21]) then return {'locked'} end
    redis.call('HSET', c, 'lock', id)
    redis.call('HINCRBY', c, 'refs', 1)
  end
end
local t, head_start = now(), tonumber(ARGV[22])
local order = t - head_start
-- Tenants take turns: each of a tenant's goes beside the first one of anybody that is behind the one before it, which counts
-- also when it has ended, or whoever asks again and again would always come first. Of those in one place the oldest comes first,
-- by its id. What is said to come later (a negative head start) has no turn.
local last = P .. 'turn:' .. tenant .. ':' .. lane
local urgent = last .. ':urgent'
if head_start >= 0 then
  if depth > 0 then
    local passed = tonumber(redis.call('GET', urgent) or 0)
    if head_start == 0 then passed = math.max(passed, tonumber(redis.call('GET', last) or 0)) end
    local beside = redis.call('ZRANGE', QUEUE .. lane, string.format('(%.17g', passed), '+inf', 'BYSCORE', 'LIMIT', 0, 1,
      'WITHSCORES')[2]
    if beside then order = math.min(order, tonumber(beside)) end
  end
end
local place = string.format('%.17g', order)
if head_start >= 0 then redis.call('SET', head_start > 0 and urgent or last, place, 'EX', TURN_S) end
local at = whole(t)
-- What is read most often stands in front: a small hash is searched from its start.
redis.call('HSET', r, 'status', 'queued', 'attempt', '0', 'seq', ARGV[17], 'owner', '', 'inboxes', ARGV[4], 'cancel', '0',
  'v', SCHEMA, 'shown', '0', 'tenant', tenant, 'lane', lane, 'stream', ARGV[5], 'store', ARGV[7], 'keep_s', ARGV[8],
  'request_id', ARGV[11], 'tries', '0', 'releases', '0', 'created', at, 'waits', at, 'order', place, 'background', ARGV[6],
  'crashes', '0', 'takeovers', '0')
redis.call('SET', P .. 'q:' .. id, ARGV[12])
redis.call('HSET', P .. 'b:' .. id, 'v', SCHEMA, 'parent', parent, 'input', ARGV[14], 'refs', '0',
  'object', ARGV[13], 'begin', ARGV[18])
if conversation ~= '' then
  redis.call('HSET', P .. 'b:' .. id, 'conversation', conversation, 'batches', ARGV[20], 'dropped', ARGV[21],
    'counted', ARGV[7])
  keep_conversation(conversation)
end
if ARGV[23] ~= '' then
  redis.call('SET', P .. 'idem:' .. tenant .. ':' .. ARGV[23], id .. ' ' .. ARGV[24], 'EX', IDEMPOTENT_S)
end
redis.call('SET', JOB .. id, ARGV[15])
if ARGV[17] ~= '0' then log(id, '0', ARGV[17], ARGV[17], ARGV[16]) end
redis.call('HINCRBY', P .. 't:' .. tenant, 'active', '1')
line_up(id, lane, place, t)
return {'ok'}
