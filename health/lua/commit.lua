-- What one step of the supervisor's monitor concluded, written whole or not at all.
--
-- KEYS  1 lease  2 statuses (hash)  3 transitions (stream)  4 detectors (hash)
-- ARGV  1 fence, or '' for no check  2 transitions kept at most
--       3 number of statuses, then that many field, value pairs
--       then number of transitions, then that many values
--       then number of detector entries, then that many field, value pairs
-- Answers 1, or 0 when the lease has passed to a newer fence: then nothing was written.
local fence = ARGV[1]
if fence ~= '' then
  local held = redis.call('GET', KEYS[1])
  if not held or string.match(held, '^(%d+) ') ~= fence then return 0 end
end
local at = 3
local function pairs_into(key)
  local count = tonumber(ARGV[at])
  for index = 1, count do
    redis.call('HSET', key, ARGV[at + 2 * index - 1], ARGV[at + 2 * index])
  end
  at = at + 1 + 2 * count
end
pairs_into(KEYS[2])
local count = tonumber(ARGV[at])
for index = 1, count do
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[2], '*', 't', ARGV[at + index])
end
at = at + 1 + count
pairs_into(KEYS[4])
return 1
