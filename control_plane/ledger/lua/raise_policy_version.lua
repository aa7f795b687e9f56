-- Raise an organisation's policy version, never lower it, and tell every worker that its copies are old.
-- KEYS: policy version. ARGV: version, channel, org.
local current = redis.call('GET', KEYS[1]) or '0'
if not string.find(current, '^%d+$') then return {err = 'LEDGER not a whole number'} end
if ARGV[1] + 0 > current + 0 then redis.call('SET', KEYS[1], ARGV[1]) end
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
