-- One shard at one instant, without changing it: every open lease, the reservations and windows that were asked for.
-- KEYS: open leases, seq, then reservations, then windows. ARGV: now, org (unused), number of reservations.
--
-- Concurrency. Redis runs this script alone, so its numbers belong together, whatever else is going on. The keys were
-- listed before (ZRANGE and SCAN) and may be behind by now: a lease opened since shows in the list of leases without a
-- row, and a window touched first since then shows in the windows of such a reservation. The caller sees both and asks
-- again with the longer lists. A reservation that ended since has no lease and a terminal row, and counts for nothing.
if not find(ARGV[3], DIGITS) then return {err = 'LEDGER not a whole number'} end
local reservations, windows = {}, {}
local last = 2 + ARGV[3]
for i = 3, last do
  reservations[i - 2] = call('HMGET', KEYS[i], 'state', 'org', 'amount', 'lease_end', 'windows')
end
for i = last + 1, #KEYS do
  windows[i - last] = call('HMGET', KEYS[i], 'settled', 'held')
end
return {now, call('GET', KEYS[2]) or '0', call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES'), reservations, windows}
