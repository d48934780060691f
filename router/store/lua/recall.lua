-- recall: an endpoint took messages and proved nothing since; what it has no receipt for may be lost.
--
-- ARGV[2]  JSON: ep endpoint, since in ms: its last proof, n at most 100
-- Answers  how many messages went back to `unknown`
-- Guarantees  each is flagged before anyone may send it again, and stands at the head of its side

local A = cjson.decode(ARGV[2])
local count = 0
-- The latest first, each before the one that was said after it: their order stays.
for _, token in ipairs(redis.call('ZREVRANGE', P .. 'aw:' .. A.ep, 0, math.min(A.n, 100) - 1)) do
  redis.call('ZREM', P .. 'aw:' .. A.ep, token)
  local message, number = string.match(token, '^t(.+)%.(%d+)$')
  message = 'm' .. message
  local At = read_attempt(message, tonumber(number))
  local M = redis.call('HMGET', P .. 'm:' .. message, 'c', 's', 'st', 'k', 'ac')
  if At and At.o == 'sent' and At.x >= A.since and M[3] == 'sent' and M[4] ~= 'notice' and tonumber(M[5]) == At.n then
    local S = load_side(M[1], M[2])
    if S and S.m ~= message then
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
return count
