#!lua flags=no-writes,allow-oom
-- The items of one stored response, for references to them. ARGV: id, tenant
-- -> {} when this tenant has stored no such response | {input, output} (JSON arrays; output is empty before the end, and may be
--    packed, or in a packed log)
require_known(P .. 'r:' .. ARGV[1])
local id = ARGV[1]
local v = redis.call('HMGET', P .. 'r:' .. id, 'tenant', 'store')
if v[1] ~= ARGV[2] or v[2] ~= '1' then return {} end
local b = redis.call('HMGET', P .. 'b:' .. id, 'input', 'output', 'log')
return {b[1] or '[]', b[2] or b[3] or '[]'}
