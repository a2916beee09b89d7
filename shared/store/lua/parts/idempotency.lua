local IDEMPOTENT_S = DAY_S      -- how long an Idempotency-Key counts, if its response lives so long

-- What an Idempotency-Key stands for: nil (it is free, or its response is gone) | 'reused' (it came with another body) |
-- the id of its response
local function recalled(tenant, hash, body)
  local made, from = string.match(redis.call('GET', P .. 'idem:' .. tenant .. ':' .. hash) or '', '^(%S+) (%S+)$')
  if not made or redis.call('EXISTS', P .. 'r:' .. made) == 0 then return nil end
  return from == body and made or 'reused'
end
