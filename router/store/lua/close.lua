-- close: end a conversation. What waits to be said still goes out; natural keys live on for their time.
--
-- ARGV[2]  JSON: c conversation, keep how long natural keys live from now, in ms
-- Answers  'ok', 'already' or 'missing'

local A = cjson.decode(ARGV[2])
local key = P .. 'v:' .. A.c
local C = redis.call('HMGET', key, 'op', 'cu')
if not C[1] then return 'missing' end
if C[1] == '0' then return 'already' end
redis.call('HSET', key, 'op', '0', 'ca', int(NOW))
redis.call('HDEL', key, 'qu', 'wa')
redis.call('SREM', P .. 'op:' .. C[2], A.c)
redis.call('ZREM', P .. 'open', A.c)
redis.call('ZREM', P .. 'wait', A.c)
redis.call('ZREM', P .. 'hidden', A.c)
redis.call('ZREM', P .. 'held', A.c)
redis.call('ZADD', P .. 'closed', int(NOW), A.c)
for _, side in ipairs({'c', 'a'}) do
  local S = load_side(A.c, side)
  if S then
    redis.call('ZREM', P .. 'at:' .. S.ep, S.id)
    drop_notice(S)
    place(S)
    redis.call('HDEL', P .. 'pair:' .. S.ep .. '|' .. S.ad, A.c)
    for _, text in ipairs(redis.call('LRANGE', P .. 'lg:' .. S.id, 0, -1)) do
      local leg = cjson.decode(text)
      redis.call('HDEL', P .. 'pair:' .. leg.ep .. '|' .. leg.ad, A.c)
      redis.call('HDEL', P .. 'pair:' .. (leg.fe or '') .. '|' .. (leg.fa or ''), A.c)
    end
  end
end
for _, message in ipairs(redis.call('LRANGE', P .. 'g:' .. A.c, 0, 9999)) do
  local natural = redis.call('HGET', P .. 'm:' .. message, 'nk')
  if natural then redis.call('PEXPIRE', P .. 'nk:' .. natural, int(A.keep)) end
end
journal('conversation.closed', A.c, '', '', nil)
return 'ok'
