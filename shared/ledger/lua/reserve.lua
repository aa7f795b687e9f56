-- Hold an amount in every scope, or in none.
-- KEYS: reservation, open leases, seq, epoch, policy version, then window and limit of each scope.
-- ARGV: now, org, id, amount, windows, lease ms, policy version, draft.
-- Replies with three numbers per scope: limit, settled, held.
local reply = {'ok', now, 0, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil} -- room for four scopes

local state = call('HGET', KEYS[1], 'state')
if state then
  local stored = call('HMGET', KEYS[1], 'org', 'amount', 'windows')
  if stored[1] ~= ARGV[2] then return {err = 'LEDGER id of another organisation'} end
  if state ~= 'reserved' then return {'terminal', state} end
  if stored[2] ~= ARGV[4] or stored[3] ~= ARGV[5] then return {'conflict', state, stored[2]} end
  reply[1], reply[3] = 'replay', stored[2]
else
  local generation = call('MGET', KEYS[4], KEYS[5])
  if not generation[1] then return {'no_epoch'} end
  if (generation[2] or '0') ~= ARGV[7] then return {'stale_policy', generation[2] or '0'} end
end

if not find(ARGV[4], DIGITS) or not find(ARGV[6], DIGITS) then return {err = 'LEDGER not a whole number'} end
local amount, lease_end = ARGV[4] + 0, now + ARGV[6]
local fits, n = true, 3
for i = 6, #KEYS, 2 do
  local limit, window = call('HGET', KEYS[i + 1], 'limit'), call('HMGET', KEYS[i], 'settled', 'held')
  local settled, held = window[1] or '0', window[2] or '0'
  if not limit then
    if state then
      limit = '0'
    elseif call('EXISTS', KEYS[i + 1]) == 1 then -- a deleted budget keeps its row, without the limit
      return {'stale_policy', ARGV[7]}
    else
      return {'no_limit', (i - 4) / 2}
    end
  end
  if not find(limit, DIGITS) or not find(settled, DIGITS) or not find(held, DIGITS) then
    return {err = 'LEDGER window or limit holds no whole numbers'}
  end
  reply[n + 1], reply[n + 2], reply[n + 3] = limit, settled, held
  n = n + 3
  if amount > limit - settled - held then fits = false end
end
if state then return reply end
if not fits then
  reply[1] = 'denied'
  return reply
end

n = 6
for i = 6, #KEYS, 2 do
  local held = reply[n] + amount
  reply[n] = held
  n = n + 3
  if call('HSET', KEYS[i], 'held', held) == 1 then -- the field is new, so the window is
    call('HSETNX', KEYS[i], 'settled', 0)
    keep_until_end(KEYS[i], (i - 4) / 2)
  end
end
call('HSET', KEYS[1], 'state', 'reserved', 'amount', ARGV[4], 'lease_end', lease_end, 'org', ARGV[2],
  'windows', ARGV[5], 'draft', ARGV[8])
call('ZADD', KEYS[2], lease_end, ARGV[3])
reply[3] = call('INCR', KEYS[3])
return reply
