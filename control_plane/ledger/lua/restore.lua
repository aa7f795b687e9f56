-- Give a shard its numbers and its epoch, unless anything was written to it since the numbers were computed.
-- KEYS: epoch, seq, then windows. ARGV: epoch, seq as it was, then settled, held and end of each window.
-- The end is in milliseconds; counters are kept eight days longer, and for ever with an end of 0.
local DIGITS = '^%d+$'
for i = 2, #ARGV do
  if not string.find(ARGV[i], DIGITS) then return {err = 'LEDGER not a whole number'} end
end
if (redis.call('GET', KEYS[2]) or '0') ~= ARGV[2] then return 'moved' end
if redis.call('EXISTS', KEYS[1]) == 1 then return 'present' end
for i = 3, #KEYS do
  local at = 3 * (i - 2)
  redis.call('HSET', KEYS[i], 'settled', ARGV[at], 'held', ARGV[at + 1])
  if ARGV[at + 2] + 0 > 0 then redis.call('PEXPIREAT', KEYS[i], ARGV[at + 2] + 691200000) end
end
redis.call('INCR', KEYS[2])
redis.call('SET', KEYS[1], ARGV[1])
return 'restored'
