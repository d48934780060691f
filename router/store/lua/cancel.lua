-- cancel: take back a message that nobody has begun to say.
--
-- ARGV[2]  JSON: m message, r reason
-- Answers  'ok', 'begun' (too late) or 'missing'

local A = cjson.decode(ARGV[2])
local M = redis.call('HMGET', P .. 'm:' .. A.m, 'c', 's', 'st')
if not M[1] then return 'missing' end
if M[3] ~= 'queued' and M[3] ~= 'parked' and M[3] ~= 'needs_human' then return 'begun' end
local S = load_side(M[1], M[2])
if not S then return 'missing' end -- its conversation is being forgotten
if redis.call('LINDEX', P .. 'q:' .. S.id, 0) == A.m then want_plan(S, '') end
take_off(S, A.m) -- what stands before it keeps its hold
set_state(A.m, 'cancelled', A.r)
redis.call('HDEL', P .. 'm:' .. A.m, 'na')
journal('message.changed', S.c, A.m, S.ep, {st = 'cancelled', r = A.r, s = S.s})
if S.nd and S.nd.id == A.m then
  drop_notice(S)
  if not redis.call('LINDEX', P .. 'q:' .. S.id, 0) then want_plan(S, '') end
end
place(S)
return 'ok'
