-- Prelude: put before every script.
--
-- KEYS[1] is the shard's prefix, `tl:{s0}:`; every other key is derived from it alone, so a script stays in one slot.
-- ARGV[1] is the time in unix milliseconds, or '' for the server's own clock (a simulation brings its own).
--
-- Records (short field names: there are many of them)
--   v:<conversation>          hash  customer cu, reference rf, subject sj, open op, opened oa, closed ca, locale lo, class cl,
--                                   priority pr, assignee as, team te, fields fi, files fl, question qu, waiting wa,
--                                   last inbound li, moved mv, home ho, order sq, rolling transcript hash th,
--                                   of what waits for proof: why hw, candidates hk (JSON), how many messages hn
--   s:<conversation>:<side>   hash  owner o, epoch e, fence f, endpoint ep, address ad, leg since ls, reason lr, lease l,
--                                   open attempt: token t, message m, number n; notice nd (JSON), hold h, busy b,
--                                   wants a plan w (why), due set it stands in dp,
--                                   cap hc on the hold if the open attempt becomes unknown
--   q:<conversation>:<side>   list  message ids that wait
--   g:<conversation>          list  the transcript: message ids in order
--   m:<message>               hash  see accept.lua; attempts are JSON in a1, a2, ...
--   d:<endpoint>              zset  sides with work there, by when to look next; d:@plan: sides that need a route
--   at:<endpoint>             zset  open sides whose leg is there, by since when somebody waits (0: nobody)
--   nd:<endpoint>|<address>   set   sides with a notice due at this place
--   open, closed, hidden      zset  conversations by when somebody last wrote, ended them, first wrote where nothing matches
--   held                      zset  hidden conversations in which something waits for proof, by since when
--   jr                        stream  the journal
--   rv                        string  the version of the records here, if it is not the first
--
-- A script reads records of its own version and of the one before. A field that may be missing makes no new version;
-- whatever else changes does. The version that brings one writes as `rv` says; the supervisor raises `rv` only once no
-- process of the version before beats any more: until then both work side by side. Whoever finds a newer `rv` stands by, and
-- has written nothing.

local P = KEYS[1]
local VERSION = 1
local STANDS = tonumber(redis.call('GET', P .. 'rv') or 1)
if STANDS > VERSION or STANDS < VERSION - 1 then
  return redis.error_reply('VERSION ' .. STANDS .. ' of the records stands here; this process knows ' .. VERSION)
end
local JOURNAL_MAX = 100000
local LEGS_MAX = 50
local UNREADABLE_MS = 5000 -- a side whose record is damaged is put off by this: it must not hold up the others

local function now_ms()
  if ARGV[1] ~= '' then return tonumber(ARGV[1]) end
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local NOW = now_ms()
local function int(x) return string.format('%.0f', x) end

-- A fact may be any JSON value; the journal holds ids, never names, addresses or text.
local function journal(kind, conversation, message, endpoint, facts)
  redis.call('XADD', P .. 'jr', 'MAXLEN', '~', JOURNAL_MAX, '*', 'k', kind, 'c', conversation, 'm', message,
    'ep', endpoint, 'at', int(NOW), 'f', facts and cjson.encode(facts) or '{}')
end

local SIDE = {'o', 'e', 'f', 'ep', 'ad', 'l', 't', 'm', 'n', 'nd', 'h', 'b', 'w', 'dp', 'hc'}

local function load_side(conversation, side)
  local raw = redis.call('HMGET', P .. 's:' .. conversation .. ':' .. side, unpack(SIDE))
  if not raw[2] then return nil end
  local S = {c = conversation, s = side, id = conversation .. ':' .. side}
  S.key = P .. 's:' .. S.id
  S.o = raw[1] or ''
  S.e = tonumber(raw[2])
  S.f = tonumber(raw[3]) or 0
  S.ep = raw[4] or ''
  S.ad = raw[5] or ''
  S.l = tonumber(raw[6] or 0)
  S.t = raw[7] or ''
  S.m = raw[8] or ''
  S.n = tonumber(raw[9] or 0)
  S.nd = raw[10] and raw[10] ~= '' and cjson.decode(raw[10]) or nil
  S.h = tonumber(raw[11] or 0)
  S.b = tonumber(raw[12] or 0)
  S.w = raw[13] or ''
  S.dp = raw[14] or ''
  S.hc = tonumber(raw[15] or -1)
  return S
end

local function split_member(member)
  return string.sub(member, 1, -3), string.sub(member, -1)
end

-- Which due set the side belongs in and when to look at it there; '' where it has nothing to do.
local function due_of(S)
  if S.l > 0 then return S.ep ~= '' and S.ep or '@plan', S.l end
  local head = redis.call('LINDEX', P .. 'q:' .. S.id, 0)
  if not head and not S.nd then return '', nil end
  local set, score
  if S.w ~= '' or S.ep == '' then
    set, score = '@plan', math.max(NOW, S.h)
  else
    -- A notice goes first: until it may, there is nothing to look for.
    set, score = S.ep, math.max(NOW, S.nd and (S.nd.h or 0) or S.h, S.b)
  end
  if head and score > NOW then
    local M = redis.call('HMGET', P .. 'm:' .. head, 'xp', 'st')
    local expires = tonumber(M[1] or 0) or 0
    -- One that may have been taken waits for evidence, and one that a person is asked about for them, also past its expiry.
    if M[2] ~= 'unknown' and M[2] ~= 'needs_human' and expires > 0 and expires < score then score = math.max(NOW, expires) end
  end
  return set, score
end

local RUNG = {} -- once a script: whoever hears it looks at everything that is due

-- Puts the side where its next work is: every path through every script that changes a side ends here.
local function place(S)
  local set, score = due_of(S)
  if S.dp ~= set and S.dp ~= '' then redis.call('ZREM', P .. 'd:' .. S.dp, S.id) end
  if set ~= '' then
    redis.call('ZADD', P .. 'd:' .. set, score, S.id)
    if score <= NOW and not RUNG[set] then
      RUNG[set] = true
      redis.call('PUBLISH', P .. 'bell', set)
    end
  end
  if S.dp ~= set then
    S.dp = set
    redis.call('HSET', S.key, 'dp', set)
  end
end

local function read_attempt(message, number)
  local raw = redis.call('HGET', P .. 'm:' .. message, 'a' .. number)
  return raw and cjson.decode(raw) or nil
end

local function write_attempt(message, A)
  redis.call('HSET', P .. 'm:' .. message, 'a' .. A.n, cjson.encode(A))
end

local function release(S)
  S.l, S.t, S.m, S.n = 0, '', '', 0
  S.hc = -1
  redis.call('HDEL', S.key, 'l', 't', 'm', 'n', 'hc')
end

local function set_state(message, state, reason)
  redis.call('HSET', P .. 'm:' .. message, 'st', state, 'r', reason or '')
end

local function hold(S, untl)
  if S.h == untl then return end
  S.h = untl
  if untl > 0 then redis.call('HSET', S.key, 'h', int(untl)) else redis.call('HDEL', S.key, 'h') end
end

local function want_plan(S, why)
  if S.w == why then return end
  S.w = why
  if why ~= '' then redis.call('HSET', S.key, 'w', why) else redis.call('HDEL', S.key, 'w') end
end

local function drop_notice(S)
  if not S.nd then return end
  -- Begun, refused for now and not needed any more: it must not stand in the transcript as if it still waited.
  if S.m ~= S.nd.id and redis.call('HGET', P .. 'm:' .. S.nd.id, 'st') == 'queued' then
    set_state(S.nd.id, 'cancelled', 'superseded')
  end
  if S.m == S.nd.id and #(S.nd.covers or {}) > 0 then
    -- It is being said: the others it speaks for are still told by it.
    redis.call('HSET', P .. 'm:' .. S.m, 'cv', cjson.encode(S.nd.covers))
  end
  redis.call('SREM', P .. 'nd:' .. S.ep .. '|' .. S.ad, S.id)
  redis.call('HDEL', S.key, 'nd')
  S.nd = nil
end

local function save_notice(S)
  redis.call('HSET', S.key, 'nd', cjson.encode(S.nd))
end

-- The sides a notice speaks for, also when its own side has moved on while it was being said.
local function covers_of(S, notice)
  if S.nd and S.nd.id == notice then return S.nd.covers or {} end
  local kept = redis.call('HGET', P .. 'm:' .. notice, 'cv')
  return kept and cjson.decode(kept) or {}
end

-- Everything this notice of `S` speaks for has been told.
local function notice_told(S, notice)
  for _, member in ipairs(covers_of(S, notice)) do
    local c, s = split_member(member)
    local other = load_side(c, s)
    if other and other.nd and other.nd.by == notice then
      drop_notice(other)
      place(other)
    end
  end
  if S.nd and S.nd.id == notice then drop_notice(S) end
end

-- Off the queue, wherever it stands in it: the hold is the head's.
local function take_off(S, message)
  local head = redis.call('LINDEX', P .. 'q:' .. S.id, 0)
  redis.call('LREM', P .. 'q:' .. S.id, 1, message)
  if head == message then hold(S, 0) end
end

local RECEIPT_RANK = {[''] = 0, unknown = 1, sent = 2, undelivered = 3, unconfirmed = 3, delivered = 4, read = 5}
local SAID = {sent = true, delivered = true, read = true}
local UNSAID = {queued = true, parked = true, failed = true, expired = true, undelivered = true, cancelled = true}

-- Came back after it was sent: out again on the next binding where that is allowed, else its sender is told.
local function send_back(S, message, At, state, said)
  local key = P .. 'm:' .. message
  local M = redis.call('HMGET', key, 'xp', 'k', 'na')
  local expires = tonumber(M[1] or 0) or 0
  if said.s == 1 and M[2] ~= 'notice' and (expires == 0 or expires > NOW) then
    local why = said.p == 1 and 'unreachable' or 'undelivered'
    local list = M[3] and cjson.decode(M[3]) or {}
    if #list < 20 then list[#list + 1] = {ep = At.ep, ad = At.ad, o = why, r = said.r} end
    redis.call('HSET', key, 'st', 'queued', 'r', said.r, 'fl', '1', 'lt', '1', 'na', cjson.encode(list))
    redis.call('HDEL', key, 'pu')
    if state == 'sent' then redis.call('LPUSH', P .. 'q:' .. S.id, message) end
    want_plan(S, why)
    hold(S, 0)
    return 'queued'
  end
  if state == 'unknown' then take_off(S, message) end
  set_state(message, 'undelivered', said.r)
  return 'undelivered'
end

-- A receipt for an attempt that is not open any more; answers the message's state. The caller places the side.
local function hear_receipt(S, message, At, came, said)
  local key = P .. 'm:' .. message
  local M = redis.call('HMGET', key, 'st', 'ac')
  local state, was = M[1], At.o
  redis.call('ZREM', P .. 'aw:' .. At.ep, At.t)
  if (RECEIPT_RANK[came] or 0) <= (RECEIPT_RANK[was] or 0) then return state end
  At.o = came
  if came ~= 'sent' then At.x = NOW end
  if said.r ~= '' then At.r = said.r end
  write_attempt(message, At)
  if came == 'undelivered' then
    if tonumber(M[2] or 0) == At.n and (state == 'sent' or state == 'unknown') then
      state = send_back(S, message, At, state, said)
      journal('message.changed', S.c, message, At.ep, {st = state, r = said.r, s = S.s, was = was})
    end
  elseif state == 'unknown' or state == 'needs_human' then
    if S.t == '' or S.m ~= message then
      set_state(message, came, '')
      take_off(S, message)
      state = came
      journal('message.changed', S.c, message, At.ep, {st = state, r = 'late_receipt', s = S.s})
    end
  elseif UNSAID[state] and came ~= 'unconfirmed' then
    -- We gave it up, or wait for another way, and it was heard after all.
    if redis.call('LINDEX', P .. 'q:' .. S.id, 0) == message then want_plan(S, '') end
    take_off(S, message)
    set_state(message, came, '')
    state = came
    journal('message.changed', S.c, message, At.ep, {st = state, r = 'late_receipt', s = S.s})
  elseif (RECEIPT_RANK[came] or 0) > (RECEIPT_RANK[state] or 9) then
    set_state(message, came, '')
    state = came
    journal('message.changed', S.c, message, At.ep, {st = state, s = S.s})
  end
  return state
end

-- A receipt for an attempt before this one came meanwhile: it has been said. Answers whether that is so.
local function said_before(S, message, number)
  local best = nil
  for n = 1, number - 1 do
    local earlier = read_attempt(message, n)
    if earlier and SAID[earlier.o] and (not best or RECEIPT_RANK[earlier.o] > RECEIPT_RANK[best.o]) then best = earlier end
  end
  if not best then return false end
  set_state(message, best.o, '')
  redis.call('HDEL', P .. 'm:' .. message, 'uk', 'na')
  take_off(S, message)
  journal('message.changed', S.c, message, best.ep, {st = best.o, r = 'late_receipt', s = S.s})
  return true
end

-- The receipt that came while the attempt was still open.
local function hear_early(S, message, At)
  if not At.early then return end
  hear_receipt(S, message, At, At.early, At.ey or {r = '', p = 0, s = 1})
  if S.b > 0 and At.ey and At.ey.z == 1 then
    S.b = 0
    redis.call('HDEL', S.key, 'b')
  end
end

-- An attempt that may have been taken: its message waits for evidence, then goes out again, flagged.
-- An idempotent endpoint (A.i) shows a resend once: it needs neither a hold nor, there, a flag.
local function become_unknown(S, A, reason)
  A.o, A.x, A.r = 'unknown', NOW, reason
  write_attempt(S.m, A)
  if redis.call('HGET', P .. 'm:' .. S.m, 'k') == 'notice' then
    -- A notice is never said twice because we are unsure, and nothing waits for what came of it.
    set_state(S.m, 'unknown', reason)
    redis.call('HSET', P .. 'm:' .. S.m, 'fl', '1')
    notice_told(S, S.m)
  else
    set_state(S.m, 'unknown', reason)
    if A.i == 1 then
      redis.call('HSET', P .. 'm:' .. S.m, 'uk', A.ep)
      hold(S, NOW)
    else
      redis.call('HSET', P .. 'm:' .. S.m, 'fl', '1')
      hold(S, NOW + (S.hc >= 0 and math.min(A.h, S.hc) or A.h))
    end
  end
  journal('attempt.ended', S.c, S.m, A.ep, {n = A.n, o = 'unknown', r = reason, e = A.e, f = A.f, s = S.s})
  local message = S.m
  release(S)
  hear_early(S, message, A)
  if SAID[A.o] then return end
  said_before(S, message, A.n)
end

-- An attempt whose deadline ran out belongs to nobody any more.
local function run_out(S)
  if S.t == '' or S.l > NOW then return end
  local A = read_attempt(S.m, S.n)
  if A and A.o == '' then become_unknown(S, A, 'deadline_passed') else release(S) end
end

-- What waited for the leg that was left, or for any at all, waits no longer.
local function free_head(S)
  local head = redis.call('LINDEX', P .. 'q:' .. S.id, 0)
  if not head or S.t ~= '' then return end
  local state = redis.call('HGET', P .. 'm:' .. head, 'st')
  if state == 'parked' then set_state(head, 'queued', '') end
  if state == 'parked' or state == 'queued' then hold(S, 0) end
end

local function finish_head(S, message, state, reason)
  set_state(message, state, reason)
  redis.call('LREM', P .. 'q:' .. S.id, 1, message)
  redis.call('HDEL', P .. 'm:' .. message, 'na')
  hold(S, 0)
  journal('message.changed', S.c, message, S.ep, {st = state, r = reason, s = S.s})
end

-- The head that may be worked on now; ends those that expired, and those no person looked after in time.
local function ready_head(S)
  for _ = 1, 100 do
    local head = redis.call('LINDEX', P .. 'q:' .. S.id, 0)
    if not head then return nil end
    local M = redis.call('HMGET', P .. 'm:' .. head, 'st', 'xp', 'cl', 'k', 'ac', 'fl', 'uk', 'na', 'hu')
    local state, expires = M[1], tonumber(M[2] or 0) or 0
    -- Kept with the message: the side's hold is also set by whatever comes before it, by parking and by waking.
    local person_until = state == 'needs_human' and tonumber(M[9] or 0) or 0
    if not state then
      redis.call('LPOP', P .. 'q:' .. S.id)
      journal('repair.made', S.c, head, S.ep, {what = 'queued message without record'})
    elseif S.l == 0 and expires > 0 and expires <= NOW and state ~= 'unknown' and state ~= 'needs_human' then
      finish_head(S, head, 'expired', 'expired')
      if S.w ~= '' then want_plan(S, '') end
    elseif S.l == 0 and state == 'unknown' and expires > 0 and expires <= NOW and S.h <= NOW then
      finish_head(S, head, 'failed', 'expired_unknown')
    elseif state == 'needs_human' and math.max(S.h, person_until) <= NOW then
      finish_head(S, head, 'failed', 'nobody_looked')
    else
      if person_until > S.h then hold(S, person_until) end
      return head, {st = state, xp = expires, cl = M[3] or 'normal', k = M[4] or 'message',
        ac = tonumber(M[5] or 0) or 0, fl = M[6] == '1', uk = M[7] or '', na = M[8] or ''}
    end
  end
  return nil
end

-- What must be equal before and after a rebind (transcript, question, fields, files, assignee, clocks, consent).
-- Answers it as text, to be hashed, and since when somebody waits.
local function context_of(conversation)
  local C = redis.call('HMGET', P .. 'v:' .. conversation, 'rf', 'th', 'sj', 'qu', 'wa', 'fi', 'fl', 'as', 'te', 'pr',
    'cl', 'op', 'cu')
  local waiting = tonumber(C[5] or 0) or 0
  C[14] = C[13] and redis.call('HGET', P .. 'cu:' .. C[13], 'cv')
  for i = 1, 14 do C[i] = C[i] or '' end
  return table.concat(C, '\n'), waiting
end

local function waiting_score(conversation)
  return tonumber(redis.call('HGET', P .. 'v:' .. conversation, 'wa') or 0) or 0
end

-- Begins a leg: raises the epoch, moves the due entry, replaces a notice. Never touches a live lease.
-- A notice nobody heard yet stays due where the side stays; elsewhere the next one speaks of what they really left, and
-- falls away where they are back.
local function begin_leg(S, endpoint, address, reason, notice)
  local before, waiting = context_of(S.c)
  local left_endpoint, left_address = S.ep, S.ad
  local untold = S.nd and S.m ~= S.nd.id and S.nd or nil
  if untold and not notice and endpoint == S.ep and address == S.ad then
    untold.h = 0
    save_notice(S)
  else
    drop_notice(S)
    if notice then
      notice.la = left_address
      if untold then notice.left, notice.la = untold.left, untold.la end
      if notice.left == endpoint and notice.la == address then notice = nil end
    end
  end
  redis.call('ZREM', P .. 'at:' .. S.ep, S.id)
  S.e = S.e + 1
  S.ep, S.ad = endpoint, address
  redis.call('HSET', S.key, 'e', S.e, 'ep', endpoint, 'ad', address, 'ls', int(NOW), 'lr', reason)
  want_plan(S, '')
  if S.b > 0 then
    S.b = 0
    redis.call('HDEL', S.key, 'b')
  end
  if endpoint ~= '' then redis.call('ZADD', P .. 'at:' .. endpoint, waiting, S.id) end
  if notice then
    S.nd = notice
    redis.call('SADD', P .. 'nd:' .. endpoint .. '|' .. address, S.id)
    save_notice(S)
  end
  local legs = P .. 'lg:' .. S.id
  local after, hash = context_of(S.c), redis.sha1hex(before)
  local kept = redis.call('RPUSH', legs, cjson.encode({ep = endpoint, ad = address, at = NOW, r = reason, e = S.e, cb = hash,
    ca = after == before and hash or redis.sha1hex(after), fe = left_endpoint, fa = left_address}))
  if kept > LEGS_MAX then redis.call('LTRIM', legs, -LEGS_MAX, -1) end
end

-- One side as a planner sees it.
local function side_facts(S)
  local C = redis.call('HMGET', P .. 'v:' .. S.c, 'cu', 'cl', 'wa', 'mv', 'li', 'oa', 'pr', 'lo', 'rf', 'op', 'ho', 'hd')
  local head = redis.call('LINDEX', P .. 'q:' .. S.id, 0)
  local F = {c = S.c, s = S.s, o = S.o, e = S.e, ep = S.ep, ad = S.ad, w = S.w, l = S.l, h = S.h,
    q = redis.call('LLEN', P .. 'q:' .. S.id), nd = S.nd and 1 or 0, cu = C[1] or '', cl = C[2] or 'normal',
    wa = tonumber(C[3] or 0) or 0, mv = tonumber(C[4] or 0) or 0, li = tonumber(C[5] or 0) or 0,
    oa = tonumber(C[6] or 0) or 0, pr = tonumber(C[7] or 5) or 5, lo = C[8] or '', rf = C[9] or '', op = C[10] or '1',
    ho = C[11] or '', hd = C[12] or '', head = head or ''}
  if S.nd and S.nd.na then F.nna = cjson.encode(S.nd.na) end
  if head then
    local M = redis.call('HMGET', P .. 'm:' .. head, 'cl', 'st', 'xp', 'na', 'b', 'k', 'ca', 'pu')
    F.mcl, F.mst, F.mxp, F.mna, F.mk = M[1] or 'normal', M[2] or '', tonumber(M[3] or 0) or 0, M[4] or '', M[6] or ''
    F.mlen = M[5] and string.len(M[5]) or 0
    F.mca, F.mpu = tonumber(M[7] or 0) or 0, tonumber(M[8] or 0) or 0
    F.mb = F.mlen < 4000 and M[5] or ''
  end
  return cjson.encode(F)
end
