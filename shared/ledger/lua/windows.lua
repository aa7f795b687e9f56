-- Put before the scripts that may be the first to touch a window. ARGV[5] lists the windows in the order of their keys,
-- one per line: `<end ms> <window id>`.

-- Counters outlive their window by eight days, for late settles and audits; a window without an end (0) stays.
local function keep_until_end(key, nth)
  for line in string.gmatch(ARGV[5], '[^\n]+') do
    nth = nth - 1
    if nth == 0 then
      local window_end = string.match(line, '^(%d+) ') + 0
      if window_end > 0 then call('PEXPIREAT', key, window_end + 691200000) end
      return
    end
  end
end
