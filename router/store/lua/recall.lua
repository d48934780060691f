-- recall: an endpoint took messages and proved nothing since; what it has no receipt for may be lost.
--
-- ARGV[2]  JSON: ep endpoint, since in ms: its last proof, n at most 100, skip how many of the latest
-- Answers  {how many messages went back to `unknown`, how many go on waiting for their receipt}
-- Guarantees  each is flagged before anyone may send it again, and stands at the head of its side. What is not recalled (a
--          notice, what was proven) still awaits its receipt

local A = cjson.decode(ARGV[2])
local count, kept = 0, 0
-- The latest first, each before the one that was said after it: their order stays.
for _, token in ipairs(redis.call('ZREVRANGE', P .. 'aw:' .. A.ep, A.skip, A.skip + math.min(A.n, 100) - 1)) do
  local message, number = string.match(token, '^t(.+)%.(%d+)$')
  message = 'm' .. message
  local At = read_attempt(message, tonumber(number))
  local M = redis.call('HMGET', P .. 'm:' .. message, 'c', 's', 'st', 'k', 'ac')
  local S = At and At.o == 'sent' and M[3] == 'sent' and load_side(M[1], M[2])
  if S and (At.x < A.since or M[4] == 'notice' or tonumber(M[5]) ~= At.n or S.m == message) then
    kept = kept + 1
  else
    redis.call('ZREM', P .. 'aw:' .. A.ep, token)
    if S then
      At.o, At.r = 'unknown', 'recalled'
      write_attempt(message, At)
      redis.call('HSET', P .. 'm:' .. message, 'st', 'unknown', 'r', 'recalled', 'fl', '1')
      redis.call('LPUSH', P .. 'q:' .. S.id, message)
      hold(S, NOW)
      place(S)
      journal('message.changed', M[1], message, A.ep, {st = 'unknown', r = 'recalled', s = M[2]})
      count = count + 1
    end
  end
end
return {count, kept}
