-- canary: take what the supervisor asked to be sent at an endpoint, oldest first.
--
-- ARGV[2]  JSON: ep endpoint
-- Answers  what was asked, as it was put there, or nothing
-- Guarantees  a frozen store gives out nothing: not even to ourselves is anything sent from there

if redis.call('EXISTS', P .. 'frozen') == 1 then return false end
return redis.call('RPOP', P .. 'ca:' .. cjson.decode(ARGV[2]).ep)
