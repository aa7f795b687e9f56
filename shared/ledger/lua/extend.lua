-- Renew a lease, always, and add to its hold in every scope, or in none.
-- KEYS: reservation, open leases, seq, then window and limit of each scope.
-- ARGV: now, org, id, amount to add, windows, lease ms.
-- Replies with three numbers per scope: limit, settled, held.
local stored = call('HMGET', KEYS[1], 'state', 'org', 'amount', 'windows', 'lease_end')
if not stored[1] then return {'unknown'} end
if stored[2] ~= ARGV[2] then return {err = 'LEDGER id of another organisation'} end
if stored[1] ~= 'reserved' then return {'terminal', stored[1]} end
if stored[4] ~= ARGV[5] then return {'windows', stored[4]} end
if not find(ARGV[4], DIGITS) or not find(ARGV[6], DIGITS) or not find(stored[3], DIGITS) then
  return {err = 'LEDGER not a whole number'}
end

local more, lease_end = ARGV[4] + 0, now + ARGV[6]
if lease_end < stored[5] + 0 then lease_end = stored[5] + 0 end -- the clock stepped back, or the lease is a longer one
local reply, missing, n = {'ok', now, 0}, nil, 3
for i = 4, #KEYS, 2 do
  local limit, window = call('HGET', KEYS[i + 1], 'limit'), call('HMGET', KEYS[i], 'settled', 'held')
  local settled, held = window[1] or '0', window[2] or '0'
  if not find(limit or '0', DIGITS) or not find(settled, DIGITS) or not find(held, DIGITS) then
    return {err = 'LEDGER window or limit holds no whole numbers'}
  end
  if more > 0 then
    if limit then
      if more > limit - settled - held then reply[1] = 'denied' end
    elseif call('EXISTS', KEYS[i + 1]) == 0 then -- a deleted budget has a row and refuses nothing
      missing = missing or (i - 2) / 2
    end
  end
  reply[n + 1], reply[n + 2], reply[n + 3] = limit or '0', settled, held
  n = n + 3
end
if missing then reply = {'no_limit', missing} end

call('HSET', KEYS[1], 'lease_end', lease_end)
call('ZADD', KEYS[2], lease_end, ARGV[3])
local seq = call('INCR', KEYS[3])
if reply[1] ~= 'ok' then return reply end

reply[3] = seq
if more > 0 then
  call('HSET', KEYS[1], 'amount', stored[3] + more)
  n = 6
  for i = 4, #KEYS, 2 do
    reply[n] = reply[n] + more
    call('HSET', KEYS[i], 'held', reply[n])
    n = n + 3
  end
end
return reply
