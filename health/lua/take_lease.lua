-- The single supervisor's lease: taken if free, or again by its own owner (a restart), always with a new fence.
--
-- KEYS  1 lease  2 fence counter
-- ARGV  1 owner  2 time to live in milliseconds
-- Answers the fence, or nil when somebody else holds the lease. Fences only grow.
local held = redis.call('GET', KEYS[1])
if held and string.match(held, '^%d+ (.*)$') ~= ARGV[1] then return false end
local fence = redis.call('INCR', KEYS[2])
redis.call('SET', KEYS[1], fence .. ' ' .. ARGV[1], 'PX', ARGV[2])
return fence
