-- End a reservation whose lease is over: its hold becomes its cost, until a settle or a release says better.
-- KEYS: see booking. ARGV: now, org, id, force (1 = whatever the lease says), windows.
local stored = call('HMGET', KEYS[1], 'state', 'amount', 'windows', 'org', 'lease_end', 'draft')
local state, amount, windows, lease_end = stored[1], stored[2], stored[3], stored[5]
if not state then return {'unknown'} end
if stored[4] ~= ARGV[2] then return {err = 'LEDGER id of another organisation'} end
if state ~= 'reserved' then return {'terminal', state} end
if ARGV[4] ~= '1' and now < lease_end + 0 then return {'alive', lease_end} end
if windows ~= ARGV[5] then return {'windows', windows} end

move(amount, 0 - amount)
call('ZREM', KEYS[2], ARGV[3])
return finish('lapsed', '1', amount, 'lapsed', stored[6], windows)
