-- End a call at nothing. An id nobody knows leaves a tombstone, which refuses the reserve that comes after it.
-- KEYS and ARGV: see booking; the amount is 0.
local stored = call('HMGET', KEYS[1], 'state', 'amount', 'windows', 'org')
local state, windows = stored[1], stored[3]
if state and stored[4] ~= ARGV[2] then return {err = 'LEDGER id of another organisation'} end
if state == 'released' then return {'replay', now, '0'} end
if windows and windows ~= ARGV[5] then return {'windows', windows} end

if state == 'reserved' then
  move(0, 0 - stored[2])
  call('ZREM', KEYS[2], ARGV[3])
elseif state == 'lapsed' then
  move(0 - call('HGET', KEYS[1], 'charged'), 0)
  return finish('trued_up', '2', '0', 'trued_up', ARGV[6])
elseif state then
  return {'terminal', state}
end
return finish('released', '2', '0', '', ARGV[6], windows)
