-- Renew the supervisor's lease, or give it up.
--
-- KEYS  1 lease
-- ARGV  1 what the holder wrote: '<fence> <owner>'  2 time to live in milliseconds; 0 gives it up
-- Answers 1, or 0 when it is no longer ours: then nothing changed.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then redis.call('DEL', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
