-- forget: remove a closed conversation that the archive has, or whose customer is erased.
--
-- ARGV[2]  JSON: c conversation, q how far its order had come when it was read, ca when it was closed,
--          keep how long a natural key lives from now, in ms, that has no time yet (`close` gives it to the first 10,000),
--          erase 1: whatever was read, and with what still waits to be said and its natural keys, which else live on
-- Answers  'ok', 'more' (ask again), 'open', 'busy' (something is still to be said; erasing: is being said now),
--          'changed' (not what was read) or 'missing'
-- Guarantees  the first call decides, at once and for good: from then on the conversation is nowhere to be found, and
--          what is left of it goes with the next calls, 500 messages each. Changes nothing unless it removes.

local A = cjson.decode(ARGV[2])
local key, leaving = P .. 'v:' .. A.c, P .. 'fg:' .. A.c
local transcript = P .. 'g:' .. A.c

local function forget_pair(endpoint, address)
  if endpoint and address then redis.call('HDEL', P .. 'pair:' .. endpoint .. '|' .. address, A.c) end
end

local C = redis.call('HMGET', key, 'op', 'cu', 'sq', 'ca')
if C[1] then
  if C[1] ~= '0' then
    redis.call('ZREM', P .. 'closed', A.c) -- reopened since; closing it again puts it back
    return 'open'
  end
  if A.erase ~= 1 and (C[3] ~= A.q or C[4] ~= A.ca) then return 'changed' end
  for _, name in ipairs({'c', 'a'}) do
    local S = load_side(A.c, name)
    if S and A.erase == 1 then
      if S.l > NOW then return 'busy' end
    elseif S and (S.l > 0 or S.t ~= '' or S.nd or S.dp ~= '' or redis.call('LLEN', P .. 'q:' .. S.id) > 0) then return 'busy' end
  end
  for _, name in ipairs({'c', 'a'}) do
    local S = load_side(A.c, name)
    if S then
      for _, leg in ipairs(redis.call('LRANGE', P .. 'lg:' .. S.id, 0, -1)) do
        local L = cjson.decode(leg)
        forget_pair(L.ep, L.ad)
        forget_pair(L.fe, L.fa)
      end
      if S.dp ~= '' then redis.call('ZREM', P .. 'd:' .. S.dp, S.id) end
      drop_notice(S)
      forget_pair(S.ep, S.ad)
      redis.call('ZREM', P .. 'at:' .. S.ep, S.id)
      redis.call('DEL', S.key, P .. 'lg:' .. S.id, P .. 'q:' .. S.id)
    end
  end
  redis.call('SREM', P .. 'op:' .. C[2], A.c)
  redis.call('ZREM', P .. 'open', A.c)
  redis.call('ZREM', P .. 'wait', A.c)
  redis.call('DEL', P .. 'mt:' .. A.c)
  redis.call('RENAME', key, leaving)
  journal(A.erase == 1 and 'conversation.erased' or 'conversation.archived', A.c, '', '', nil)
elseif redis.call('EXISTS', leaving) == 0 then
  redis.call('ZREM', P .. 'closed', A.c)
  return 'missing'
end

for _, id in ipairs(redis.call('LRANGE', transcript, 0, 499)) do
  for n = 1, tonumber(redis.call('HGET', P .. 'm:' .. id, 'ac') or 0) do
    local At = read_attempt(id, n)
    if At then
      forget_pair(At.ep, At.ad)
      redis.call('ZREM', P .. 'aw:' .. At.ep, At.t)
    end
  end
  local natural = redis.call('HGET', P .. 'm:' .. id, 'nk')
  if natural and A.erase == 1 then
    redis.call('DEL', P .. 'nk:' .. natural)
  elseif natural and redis.call('PTTL', P .. 'nk:' .. natural) == -1 then
    redis.call('PEXPIRE', P .. 'nk:' .. natural, int(A.keep or 604800000))
  end
  redis.call('DEL', P .. 'm:' .. id)
end
redis.call('LTRIM', transcript, 500, -1)
if redis.call('EXISTS', transcript) == 1 then return 'more' end
redis.call('DEL', leaving)
redis.call('ZREM', P .. 'closed', A.c)
return 'ok'
