-- receipt: a later word about an attempt.
--
-- ARGV[2]  JSON: m message, n attempt number, st sent|delivered|read|undelivered|unconfirmed, r reason, perm 0/1, final 0/1,
--          at in ms, resend 0/1: an undelivered message may go out on the next binding
-- Answers  {'ok' | 'old' | 'missing', conversation, message state}
-- Guarantees  receipts only move up, each belongs to its attempt; `unknown` becomes `sent` unless another attempt is open.

local RANK = {[''] = 0, unknown = 1, sent = 2, undelivered = 3, unconfirmed = 3, delivered = 4, read = 5}
local A = cjson.decode(ARGV[2])
local key = P .. 'm:' .. A.m
local M = redis.call('HMGET', key, 'c', 's', 'st', 'ac', 'xp', 'k')
if not M[1] then return {'missing', '', ''} end
local At = read_attempt(A.m, A.n)
if not At then return {'missing', M[1], M[3]} end
redis.call('ZREM', P .. 'aw:' .. At.ep, At.t)
local S = load_side(M[1], M[2])

if A.final == 1 and S.b > 0 then
  S.b = 0
  redis.call('HDEL', S.key, 'b')
  place(S)
end
if (RANK[A.st] or 0) <= (RANK[At.o] or 0) then return {'old', M[1], M[3]} end
local open = S.t == At.t
local was = At.o
if not open then
  At.o = A.st
  if A.st ~= 'sent' then At.x = NOW end
else
  At.early = A.st -- a receipt before the response: settle will come
end
if A.r ~= '' then At.r = A.r end
write_attempt(A.m, At)
journal('receipt.came', M[1], A.m, At.ep, {n = At.n, st = A.st, r = A.r, s = M[2], ms = NOW - At.b})
if open then return {'ok', M[1], M[3]} end

local state = M[3]
if A.st == 'undelivered' then
  local last = tonumber(M[4] or 0) == A.n
  if last and (state == 'sent' or state == 'unknown') then
    local expires = tonumber(M[5] or 0) or 0
    if A.resend == 1 and M[6] ~= 'notice' and (expires == 0 or expires > NOW) then
      local na = redis.call('HGET', key, 'na')
      local list = na and cjson.decode(na) or {}
      if #list < 20 then
        list[#list + 1] = {ep = At.ep, ad = At.ad, o = A.perm == 1 and 'unreachable' or 'undelivered', r = A.r}
      end
      redis.call('HSET', key, 'st', 'queued', 'r', A.r, 'fl', '1', 'lt', '1', 'na', cjson.encode(list))
      if state == 'sent' then redis.call('LPUSH', P .. 'q:' .. S.id, A.m) end
      want_plan(S, A.perm == 1 and 'unreachable' or 'undelivered')
      hold(S, 0)
      state = 'queued'
    else
      if state == 'unknown' then take_off(S, A.m) end
      set_state(A.m, 'undelivered', A.r)
      state = 'undelivered'
    end
    journal('message.changed', M[1], A.m, At.ep, {st = state, r = A.r, s = M[2], was = was})
    place(S)
  end
elseif state == 'unknown' or state == 'needs_human' then
  if S.t == '' or S.m ~= A.m then
    set_state(A.m, A.st, '')
    take_off(S, A.m)
    place(S)
    state = A.st
    journal('message.changed', M[1], A.m, At.ep, {st = state, r = 'late_receipt', s = M[2]})
  end
elseif state == 'queued' and redis.call('LINDEX', P .. 'q:' .. S.id, 0) == A.m and was == 'unknown' then
  set_state(A.m, A.st, '')
  redis.call('LREM', P .. 'q:' .. S.id, 1, A.m)
  hold(S, 0)
  want_plan(S, '')
  place(S)
  state = A.st
elseif (RANK[A.st] or 0) > (RANK[state] or 9) then
  set_state(A.m, A.st, '')
  state = A.st
  journal('message.changed', M[1], A.m, At.ep, {st = state, s = M[2]})
end
return {'ok', M[1], state}
