-- accept: take one message once, give it its place in the order, make the side due.
--
-- ARGV[2]  JSON: conversation c, message m {id, s destination side, k, au, an, b (content, JSON text), cl, xp, ep, lt, uv,
--          og hash of the original on disk or '', at when it came in unix milliseconds, 0: now},
--          nk natural key, nh hash of what was said under it, ttl of the natural key in ms once the conversation is closed,
--          create {conversation fields, sides c and a with o, ep, ad} or nil, reopen 0/1, queue_max,
--          pin {ep, ad} or nil: the author wrote there, so the author's side is there now,
--          mt the Message-ID of an inbound mail or nil, front 0/1: say it before what waits,
--          dc the decision it stands here by, for the journal, or nil,
--          quiet 0/1: nobody waits for an answer to it (an auto-reply, a STOP),
--          held {w why, k candidates as JSON text} or nil: it waits for proof of where it belongs
-- Answers  {'new' | 'duplicate' | 'other' | 'closed' | 'missing' | 'full', message id, sequence, endpoint of the side}
-- Guarantees  all or nothing; the same natural key adds nothing and answers with the first message's id; `other` says
--          that the natural key was used for something else.

local FILES_MAX = 200 -- a conversation lists; its messages name theirs in any case
local A = cjson.decode(ARGV[2])
local M = A.m
local CAME = M.at > 0 and math.min(M.at, NOW) or NOW
local conversation_key = P .. 'v:' .. A.c

if A.nk then
  local known = redis.call('GET', P .. 'nk:' .. A.nk)
  if known then
    local space = string.find(known, ' ', 1, true)
    local id, hash = string.sub(known, 1, space - 1), string.sub(known, space + 1)
    local K = redis.call('HMGET', P .. 'm:' .. id, 'q', 'c', 's')
    local verdict = (A.nh == '' or hash == A.nh) and 'duplicate' or 'other'
    local endpoint = K[2] and redis.call('HGET', P .. 's:' .. K[2] .. ':' .. K[3], 'ep') or ''
    return {verdict, id, K[1] or '0', endpoint or '', K[2] or ''}
  end
end

local open = redis.call('HGET', conversation_key, 'op')
if not open and not A.create then return {'missing', '', '0', '', ''} end
if open == '0' and A.reopen ~= 1 then return {'closed', '', '0', '', ''} end
if open and redis.call('LLEN', P .. 'q:' .. A.c .. ':' .. M.s) >= A.queue_max then return {'full', '', '0', '', ''} end

if not open then
  local C = A.create
  redis.call('HSET', conversation_key, 'v', STANDS, 'cu', C.cu, 'rf', C.rf, 'sj', C.sj, 'op', '1', 'oa', int(NOW), 'lo', C.lo,
    'cl', C.cl, 'pr', C.pr, 'te', C.te, 'as', C.as, 'ho', C.ho, 'hd', C.hd, 'fi', '{}', 'fl', '[]', 'sq', 0, 'th', '')
  for _, side in ipairs({'c', 'a'}) do
    local L = C[side]
    redis.call('HSET', P .. 's:' .. A.c .. ':' .. side, 'o', L.o, 'e', 1, 'f', 0, 'ep', L.ep, 'ad', L.ad, 'ls', int(NOW),
      'lr', 'opened')
    if L.ep ~= '' then redis.call('ZADD', P .. 'at:' .. L.ep, 0, A.c .. ':' .. side) end
  end
  if C.hd ~= '1' then
    redis.call('SADD', P .. 'op:' .. C.cu, A.c)
    redis.call('ZADD', P .. 'open', int(NOW), A.c)
    journal('conversation.opened', A.c, '', C.c.ep, {cu = C.cu})
  end
elseif open == '0' then
  redis.call('HSET', conversation_key, 'op', '1')
  redis.call('HDEL', conversation_key, 'ca')
  redis.call('ZREM', P .. 'closed', A.c)
  for _, message in ipairs(redis.call('LRANGE', P .. 'g:' .. A.c, 0, 9999)) do
    local natural = redis.call('HGET', P .. 'm:' .. message, 'nk')
    if natural then redis.call('PERSIST', P .. 'nk:' .. natural) end
  end
  if redis.call('HGET', conversation_key, 'hd') ~= '1' then
    redis.call('ZADD', P .. 'open', int(NOW), A.c)
    redis.call('SADD', P .. 'op:' .. redis.call('HGET', conversation_key, 'cu'), A.c)
  end
  for _, side in ipairs({'c', 'a'}) do
    local endpoint = redis.call('HGET', P .. 's:' .. A.c .. ':' .. side, 'ep')
    if endpoint and endpoint ~= '' then redis.call('ZADD', P .. 'at:' .. endpoint, 0, A.c .. ':' .. side) end
  end
  journal('conversation.changed', A.c, '', '', {what = 'reopened'})
end

-- What only holds messages is listed nowhere but here, by when somebody last wrote, so that it can end.
if redis.call('HGET', conversation_key, 'hd') == '1' then redis.call('ZADD', P .. 'hidden', int(NOW), A.c) end

-- Agents are shown what waits for proof, by since when its first message waits.
if A.held then
  redis.call('ZADD', P .. 'held', 'NX', int(NOW), A.c)
  redis.call('HSET', conversation_key, 'hw', A.held.w, 'hk', A.held.k)
  redis.call('HINCRBY', conversation_key, 'hn', 1)
end

local sequence = redis.call('HINCRBY', conversation_key, 'sq', 1)
local key = P .. 'm:' .. M.id
redis.call('HSET', key, 'v', STANDS, 'c', A.c, 's', M.s, 'k', M.k, 'au', M.au, 'an', M.an, 'b', M.b, 'cl', M.cl, 'st', 'queued',
  'q', sequence, 'ca', int(CAME), 'xp', int(M.xp), 'ep', M.ep)
if A.nk then
  redis.call('HSET', key, 'nk', A.nk)
  redis.call('SET', P .. 'nk:' .. A.nk, M.id .. ' ' .. A.nh)
end
if M.lt == 1 then redis.call('HSET', key, 'lt', '1') end
if M.uv == 1 then redis.call('HSET', key, 'uv', '1') end
if M.og ~= '' then redis.call('HSET', key, 'og', M.og) end
redis.call('RPUSH', P .. 'g:' .. A.c, M.id)
local rolling = redis.call('HGET', conversation_key, 'th') or ''
redis.call('HSET', conversation_key, 'th', redis.sha1hex(rolling .. M.id .. M.b))
if string.find(M.b, '"files":[[', 1, true) then
  local kept, seen = cjson.decode(redis.call('HGET', conversation_key, 'fl') or '[]'), {}
  for _, file in ipairs(kept) do seen[file[1] .. '|' .. file[2]] = true end
  for _, file in ipairs(cjson.decode(M.b).files or {}) do
    if #kept < FILES_MAX and not seen[file[1] .. '|' .. file[2]] then kept[#kept + 1] = file end
  end
  if #kept > 0 then redis.call('HSET', conversation_key, 'fl', cjson.encode(kept)) end
end
if A.mt then
  redis.call('RPUSH', P .. 'mt:' .. A.c, A.mt)
  redis.call('LTRIM', P .. 'mt:' .. A.c, -20, -1)
end

-- Who waits for whom.
if M.s == 'a' and M.k == 'message' and A.quiet ~= 1 then
  redis.call('HSET', conversation_key, 'li', int(NOW))
  if redis.call('HSETNX', conversation_key, 'qu', M.id) == 1 then
    redis.call('HSET', conversation_key, 'wa', int(CAME))
    redis.call('ZADD', P .. 'open', 'XX', int(NOW), A.c)
  end
elseif M.s == 'c' and M.k == 'message' and A.quiet ~= 1 then
  redis.call('HDEL', conversation_key, 'qu', 'wa')
end
local waiting = waiting_score(A.c)
if waiting > 0 then redis.call('ZADD', P .. 'wait', waiting, A.c) else redis.call('ZREM', P .. 'wait', A.c) end

local author = load_side(A.c, M.s == 'a' and 'c' or 'a')
if author.ep ~= '' then redis.call('ZADD', P .. 'at:' .. author.ep, 'XX', waiting, author.id) end
if A.pin and (author.ep ~= A.pin.ep or author.ad ~= A.pin.ad) then
  begin_leg(author, A.pin.ep, A.pin.ad, 'wrote_here', nil)
  free_head(author)
  journal('side.rebound', A.c, '', A.pin.ep, {s = author.s, r = 'wrote_here', e = author.e})
  place(author)
elseif A.pin and author.nd then
  -- They wrote here: nobody has to be told any more where the conversation is.
  drop_notice(author)
  place(author)
end
if A.pin then redis.call('HSET', P .. 'pair:' .. A.pin.ep .. '|' .. A.pin.ad, A.c, int(NOW)) end

local S = load_side(A.c, M.s)
local head = redis.call('LINDEX', P .. 'q:' .. S.id, 0)
if head and redis.call('HGET', P .. 'm:' .. head, 'st') == 'needs_human' then
  finish_head(S, head, 'failed', 'agent_wrote_on')
end
if A.front == 1 and S.t == '' then
  redis.call('LPUSH', P .. 'q:' .. S.id, M.id)
else
  redis.call('RPUSH', P .. 'q:' .. S.id, M.id)
end
place(S)
journal('message.accepted', A.c, M.id, M.ep, {s = M.s, q = sequence, k = M.k})
if A.dc then journal('decision.made', A.c, M.id, M.ep, {d = A.dc}) end
return {'new', M.id, tostring(sequence), S.ep, A.c}
