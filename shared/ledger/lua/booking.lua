-- Put before the scripts that end a call. KEYS: reservation, open leases, seq, stream, then one window per scope.
-- ARGV: now, org, id, amount, windows, event.

-- A counter that lost its past (a window removed by hand) stops at zero: below it would be room nobody granted.
local function restart(i, field)
  call('HSET', KEYS[i], field, 0)
  keep_until_end(KEYS[i], i - 4)
end

-- The windows of a hold were checked when it was made, so this only writes.
local function move(spent, hold)
  for i = 5, #KEYS do
    if call('HINCRBY', KEYS[i], 'settled', spent) < 0 then restart(i, 'settled') end
    if call('HINCRBY', KEYS[i], 'held', hold) < 0 then restart(i, 'held') end
  end
end

-- Money without a hold may meet a window that is new, or one whose numbers nobody checked yet.
local function move_unheld(spent)
  local new = {}
  for i = 5, #KEYS do
    local window = call('HMGET', KEYS[i], 'settled', 'held')
    if not window[1] and not window[2] then
      new[#new + 1] = i
    elseif not find(window[1] or '0', DIGITS) or not find(window[2] or '0', DIGITS) then
      return {err = 'LEDGER window holds no whole numbers'}
    end
  end
  for _, i in ipairs(new) do
    call('HSET', KEYS[i], 'settled', 0, 'held', 0)
    keep_until_end(KEYS[i], i - 4)
  end
  for i = 5, #KEYS do
    call('HINCRBY', KEYS[i], 'settled', spent)
  end
end

-- What is left of an ended call for 48 hours: how it ended, and its windows where money may still move.
-- The draft goes: it is most of the memory.
local function finish(state, rank, cost, flags, event, windows)
  call('DEL', KEYS[1])
  if windows then
    call('HSET', KEYS[1], 'state', state, 'charged', cost, 'rank', rank, 'org', ARGV[2], 'windows', windows)
  else
    call('HSET', KEYS[1], 'state', state, 'charged', cost, 'rank', rank, 'org', ARGV[2])
  end
  call('PEXPIREAT', KEYS[1], now + 172800000)
  call('XADD', KEYS[4], '*', 'k', 'cost', 'id', ARGV[3], 'org', ARGV[2], 'rank', rank, 'cost', cost, 'ms', now,
    'w', ARGV[5], 'f', flags, 'e', event)
  return {'ok', now, call('INCR', KEYS[3])}
end
