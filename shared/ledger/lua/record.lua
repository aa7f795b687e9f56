-- Book spend that had no hold, once per id.
-- KEYS and ARGV: see booking.
if not find(ARGV[4], DIGITS) then return {err = 'LEDGER not a whole number'} end
local stored = call('HMGET', KEYS[1], 'state', 'amount', 'charged', 'org')
if stored[1] then
  if stored[4] ~= ARGV[2] then return {err = 'LEDGER id of another organisation'} end
  if stored[3] == ARGV[4] then return {'replay', now, stored[3]} end
  return {'conflict', stored[1], stored[3] or stored[2]}
end
return move_unheld(ARGV[4]) or finish('recorded', '2', ARGV[4], '', ARGV[6])
