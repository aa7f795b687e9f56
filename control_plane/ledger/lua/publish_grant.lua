-- Publish one key's grant. An older version than the stored one changes nothing; the same one repairs the body.
-- KEYS: grant. ARGV: version, body.
local current = redis.call('HGET', KEYS[1], 'v')
if current then
  if not string.find(current, '^%d+$') then return {err = 'LEDGER not a whole number'} end
  if ARGV[1] + 0 < current + 0 then return 0 end
end
redis.call('HSET', KEYS[1], 'v', ARGV[1], 'body', ARGV[2])
return 1
