-- End a call at its actual cost. It never asks whether the cost fits.
-- KEYS and ARGV: see booking.
if not find(ARGV[4], DIGITS) then return {err = 'LEDGER not a whole number'} end
local stored = call('HMGET', KEYS[1], 'state', 'amount', 'windows', 'org')
local state, windows = stored[1], stored[3]
if state and stored[4] ~= ARGV[2] then return {err = 'LEDGER id of another organisation'} end
if windows and windows ~= ARGV[5] then return {'windows', windows} end

if state == 'reserved' then
  move(ARGV[4], 0 - stored[2])
  call('ZREM', KEYS[2], ARGV[3])
  return finish('settled', '2', ARGV[4], '', ARGV[6])
end

local rank, flags = '2', 'hold_missing'
if state == 'lapsed' then
  move(ARGV[4] - call('HGET', KEYS[1], 'charged'), 0)
  return finish('trued_up', '2', ARGV[4], 'trued_up', ARGV[6])
elseif state == 'released' then
  rank, flags = '3', 'late'
elseif state then
  local charged = call('HGET', KEYS[1], 'charged')
  if charged == ARGV[4] then return {'replay', now, charged} end
  return {'conflict', state, charged}
end
return move_unheld(ARGV[4]) or finish('settled', rank, ARGV[4], flags, ARGV[6])
