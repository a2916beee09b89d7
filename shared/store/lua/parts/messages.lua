local MAX_PUBLISHED_BYTES = 4194304 -- of one script: more would cut the subscribers' connections
local MAX_MESSAGE_BYTES = 65536 -- a larger batch is only announced

-- Messages to inboxes, one PUBLISH each: lines "<kind> <id> <a> <b> <size>", an empty line, then the blobs in order.
-- Kinds: e events, z the last events, s settled (no events), c cancel; a, y, r: as e, z, s, but too large to be sent.
local outgoing, published = {}, 0
local function tell(inboxes, head, blob)
  if #blob > MAX_MESSAGE_BYTES or published > MAX_PUBLISHED_BYTES then
    head, blob = string.gsub(head, '^%a', {e = 'a', z = 'y', s = 'r'}), ''
  end
  head = head .. ' ' .. whole(#blob)
  for inbox in string.gmatch(inboxes, '%S+') do
    local out = outgoing[inbox]
    if not out then
      out = {heads = {}, blobs = {}}
      outgoing[inbox] = out
    end
    out.heads[#out.heads + 1], out.blobs[#out.blobs + 1] = head, blob
    published = published + #blob
  end
end

local function send()
  for inbox, out in pairs(outgoing) do
    redis.call('PUBLISH', 'rs:in:' .. inbox, table.concat(out.heads, '\n') .. '\n\n' .. table.concat(out.blobs))
  end
end

local MAX_INBOXES = 32
local function watch_with(id, inboxes, inbox)
  local seen = 0
  for each in string.gmatch(inboxes, '%S+') do
    if each == inbox then return end
    seen = seen + 1
  end
  if seen < MAX_INBOXES then
    redis.call('HSET', P .. 'r:' .. id, 'inboxes', inboxes == '' and inbox or inboxes .. ' ' .. inbox)
  end
end
