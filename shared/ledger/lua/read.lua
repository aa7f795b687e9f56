-- The numbers of windows, without changing them: limit, settled, held of each.
-- KEYS: seq, then window and limit of each scope. ARGV: now, org.
local reply, n = {'ok', now, call('GET', KEYS[1]) or '0'}, 3
for i = 2, #KEYS, 2 do
  local window = call('HMGET', KEYS[i], 'settled', 'held')
  reply[n + 1], reply[n + 2], reply[n + 3] = call('HGET', KEYS[i + 1], 'limit') or '0', window[1] or '0', window[2] or '0'
  n = n + 3
end
return reply
