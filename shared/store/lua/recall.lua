#!lua flags=no-writes,allow-oom
-- with idempotency
-- What an Idempotency-Key stands for. ARGV: tenant, hash of the key, hash of the body
-- -> '' (it is free) | 'reused' (it came with another body) | the id of its response
return recalled(ARGV[1], ARGV[2], ARGV[3]) or ''
