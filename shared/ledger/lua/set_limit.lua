-- Publish one budget: its limit, its entity's definition and the organisation's policy version.
-- KEYS: limit, seq, policy version, policy of the entity.
-- ARGV: now, org, version, limit, deleted (0 or 1), policy version, definition, channel.
local row = call('HMGET', KEYS[1], 'version')
local definition = call('HMGET', KEYS[4], 'v')
local current, defined, policy = row[1] or '0', definition[1] or '0', call('GET', KEYS[3]) or '0'
for _, number in ipairs({ARGV[3], ARGV[4], ARGV[6], current, defined, policy}) do
  if not find(number, DIGITS) then return {err = 'LEDGER not a whole number'} end
end
if row[1] and ARGV[3] + 0 <= current + 0 then return {'old_version', current} end

if ARGV[5] == '1' then -- the row stays, so that an older publication cannot bring the budget back
  call('HSET', KEYS[1], 'version', ARGV[3], 'deleted', '1')
  call('HDEL', KEYS[1], 'limit')
else
  call('HSET', KEYS[1], 'version', ARGV[3], 'deleted', '0', 'limit', ARGV[4])
end
if ARGV[6] + 0 >= defined + 0 then call('HSET', KEYS[4], 'v', ARGV[6], 'body', ARGV[7]) end
if ARGV[6] + 0 > policy + 0 then call('SET', KEYS[3], ARGV[6]) end
call('PUBLISH', ARGV[8], ARGV[2])
return {'ok', now, call('INCR', KEYS[2])}
