-- Put before every script. ARGV of every script begins with: now (empty = the server's clock), org.
--
-- Numbers arrive and are stored as strings of digits. They are checked with DIGITS before any arithmetic, because Lua
-- also reads `nan`, `inf` and `0x10` as numbers, and they go back to redis.call as numbers or as the checked strings,
-- never through `..` or tostring, which write 10^15 as `1e+15`.
-- A script checks everything before its first write: what is written before an error stays written.
local call, find = redis.call, string.find
local DIGITS = '^%d+$'

local now = ARGV[1]
if now == '' then
  local time = call('TIME')
  now = time[1] * 1000 + (time[2] - time[2] % 1000) / 1000
elseif find(now, DIGITS) then
  now = now + 0
else
  return {err = 'LEDGER now is not a whole number'}
end
