-- receipt: a later word about an attempt.
--
-- ARGV[2]  JSON: m message, n attempt number, st sent|delivered|read|undelivered|unconfirmed, r reason, perm 0/1, final 0/1,
--          at in ms, resend 0/1: an undelivered message may go out on the next binding,
--          by the endpoint that says so or nil: ourselves, kin what ids of endpoints begin with that it may speak for
-- Answers  {'ok' | 'old' | 'foreign' | 'missing', conversation, message state}
-- Guarantees  an endpoint says nothing of another's attempts; receipts only move up, each belongs to its attempt; `unknown` becomes `sent` unless another attempt is open.

local A = cjson.decode(ARGV[2])
local M = redis.call('HMGET', P .. 'm:' .. A.m, 'c', 's', 'st')
if not M[1] then return {'missing', '', ''} end
local At = read_attempt(A.m, A.n)
if not At then return {'missing', M[1], M[3]} end
if A.by and A.by ~= At.ep and not (A.kin and string.sub(At.ep, 1, #A.kin) == A.kin) then
  journal('receipt.refused', M[1], A.m, A.by, {n = At.n, st = A.st, of = At.ep, s = M[2]})
  return {'foreign', M[1], M[3]}
end
redis.call('ZREM', P .. 'aw:' .. At.ep, At.t)
local S = load_side(M[1], M[2])
if not S then return {'missing', M[1], M[3]} end -- its conversation is being forgotten

-- The end of the call that occupies the leg, not of a text before it, nor of an earlier call told twice.
if A.final == 1 and S.b > 0 and S.f == At.f then
  S.b = 0
  redis.call('HDEL', S.key, 'b')
  place(S)
end
-- It ended before its response came, and says nothing new but that.
if A.final == 1 and S.t == At.t and At.ey and At.ey.z ~= 1 then
  At.ey.z = 1
  write_attempt(A.m, At)
end
if (RECEIPT_RANK[A.st] or 0) <= (RECEIPT_RANK[At.early or At.o] or 0) then return {'old', M[1], M[3]} end
journal('receipt.came', M[1], A.m, At.ep, {n = At.n, st = A.st, r = A.r, s = M[2], ms = NOW - At.b})
if S.t == At.t then
  -- Before the response: whatever ends the attempt takes this into account.
  At.early, At.ey = A.st, {r = A.r, p = A.perm, s = A.resend, z = A.final}
  write_attempt(A.m, At)
  return {'ok', M[1], M[3]}
end
local state = hear_receipt(S, A.m, At, A.st, {r = A.r, p = A.perm, s = A.resend})
place(S)
return {'ok', M[1], state}
