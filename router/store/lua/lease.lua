-- lease: take up to n due sides of an endpoint, writing the attempt before any I/O.
--
-- ARGV[2]  JSON: ep endpoint, w worker, req request id, n at most 100, lease ms, holds {class: ms}, idem 0/1,
--          attempts_max sends of one message that may have been taken, human_ms, retry_floor per second
-- Answers  a list of JSON attempts (see `begin`), or with the same `req` again the same ones that are still open
-- Guarantees  gate open, no live lease, head of the queue, not expired, consented; every attempt that is answered has
--          been written; fences only grow. An attempt whose deadline ran out becomes unknown, also while the gate is
--          closed. A notice goes first, also past an unknown message.

local A = cjson.decode(ARGV[2])
local ATTEMPTS_KEPT = 40 -- of any kind, a message: then a person is asked
local out = {}
local names = {}

local function conversation_facts(c)
  local C = redis.call('HMGET', P .. 'v:' .. c, 'rf', 'lo', 'sj', 'cu', 'as', 'hd', 'mv', 'qu')
  return {rf = C[1] or '', lo = C[2] or '', sj = C[3] or '', cu = C[4] or '', as = C[5] or '', hd = C[6] or '',
    mv = tonumber(C[7] or 0) or 0, qu = C[8] or ''}
end

local function describe(S, message, At, covers)
  local M = redis.call('HMGET', P .. 'm:' .. message, 'k', 'b', 'cl', 'fl', 'lt', 'ca', 'xp', 'au', 'an', 'q')
  local F = {c = S.c, s = S.s, o = S.o, e = S.e, m = message, k = M[1], b = M[2], cl = M[3], fl = M[4] == '1' and 1 or 0,
    lt = M[5] == '1' and 1 or 0, ca = tonumber(M[6] or 0), xp = tonumber(M[7] or 0), au = M[8], an = M[9],
    q = tonumber(M[10] or 0), a = At, v = conversation_facts(S.c)}
  if S.nd and S.nd.id == message then
    F.nd = S.nd
    F.refs = {F.v.rf}
    for _, member in ipairs(covers or S.nd.covers or {}) do
      local c = split_member(member)
      F.refs[#F.refs + 1] = redis.call('HGET', P .. 'v:' .. c, 'rf') or ''
    end
  end
  -- Does anybody else speak over this exact pair? Then texts carry their reference.
  F.shared = redis.call('HLEN', P .. 'pair:' .. S.ep .. '|' .. S.ad)
  return cjson.encode(F)
end

local function begin(S, message, class, kind)
  S.f = S.f + 1
  local number = redis.call('HINCRBY', P .. 'm:' .. message, 'ac', 1)
  local token = 't' .. string.sub(message, 2) .. '.' .. number
  local deadline = NOW + A.lease
  local At = {n = number, t = token, ep = S.ep, ad = S.ad, e = S.e, f = S.f, b = NOW, d = deadline, o = '', w = A.w,
    h = A.holds[class] or A.holds.normal, i = A.idem}
  write_attempt(message, At)
  redis.call('HSET', P .. 'm:' .. message, 'st', 'sending')
  -- What a customer said keeps the endpoint it came in by.
  if S.s == 'c' then redis.call('HSET', P .. 'm:' .. message, 'ep', S.ep) end
  S.l, S.t, S.m, S.n = deadline, token, message, number
  redis.call('HSET', S.key, 'f', S.f, 'l', int(deadline), 't', token, 'm', message, 'n', number)
  place(S)
  journal('attempt.begun', S.c, message, S.ep, {n = number, e = S.e, f = S.f, w = A.w, s = S.s, k = kind})
  names[#names + 1] = S.id
  return At
end

-- One notice for everybody who shares the address and is to be told now.
local function gather_covers(S)
  local covers = {}
  local members = redis.call('SMEMBERS', P .. 'nd:' .. S.ep .. '|' .. S.ad)
  table.sort(members) -- a set has no order of its own, and what is said should have one
  for _, member in ipairs(members) do
    if member ~= S.id and #covers < 20 then
      local c, s = split_member(member)
      local other = load_side(c, s)
      -- One whose last message is still open elsewhere is told with the others; one whose own notice is open tells itself.
      if other and other.nd and other.m ~= other.nd.id and other.ep == S.ep and other.ad == S.ad then
        other.nd.by, other.nd.lead = S.nd.id, S.id
        if other.nd.fl == 1 then S.nd.fl = 1 end
        save_notice(other)
        covers[#covers + 1] = member
      end
    end
  end
  return covers
end

local function begin_notice(S)
  if S.nd.by then
    local c, s = split_member(S.nd.lead)
    local lead = load_side(c, s)
    local said = lead and lead.t ~= '' and lead.m == S.nd.by
    if said or lead and lead.nd and lead.nd.id == S.nd.by and lead.ep == S.ep then
      S.nd.h = NOW + 1000
      save_notice(S)
      place(S)
      return true
    end
    S.nd.by, S.nd.lead = nil, nil
  end
  if (S.nd.h or 0) > NOW then return false end
  local key = P .. 'm:' .. S.nd.id
  if redis.call('EXISTS', key) == 0 then
    local sequence = redis.call('HINCRBY', P .. 'v:' .. S.c, 'sq', 1)
    redis.call('HSET', key, 'v', STANDS, 'c', S.c, 's', S.s, 'k', 'notice', 'au', 'router', 'an', '', 'b',
      cjson.encode({text = ''}), 'cl', 'urgent', 'st', 'queued', 'q', sequence, 'ca', int(NOW), 'xp', '0', 'ep', S.ep)
    redis.call('RPUSH', P .. 'g:' .. S.c, S.nd.id)
    S.nd.covers = gather_covers(S)
    if S.nd.fl == 1 then redis.call('HSET', key, 'fl', '1') end -- told already, perhaps, in a time that is lost
    save_notice(S)
  elseif (tonumber(redis.call('HGET', key, 'ac') or 0) or 0) >= ATTEMPTS_KEPT then
    -- One that may have been taken has ended already: these were all certainly refused.
    set_state(S.nd.id, 'failed', 'attempts_exhausted')
    journal('message.changed', S.c, S.nd.id, S.ep, {st = 'failed', r = 'attempts_exhausted', s = S.s})
    notice_told(S, S.nd.id)
    return false
  end
  local At = begin(S, S.nd.id, 'urgent', 'notice')
  out[#out + 1] = describe(S, S.nd.id, At)
  return true
end

-- Retries on one endpoint are paid from a budget: a tenth of a token for each first try, and a floor each second.
local retry = nil
local function budget()
  if not retry then
    local R = redis.call('HMGET', P .. 'retry', 'n', 'at')
    local elapsed = math.max(0, NOW - (tonumber(R[2] or 0) or 0)) / 1000
    retry = math.min(50, (tonumber(R[1] or 20) or 20) + math.min(elapsed, 3600) * A.retry_floor)
  end
  return retry
end

local function may_retry()
  if budget() < 1 then return false end
  retry = retry - 1
  return true
end

local function gate_allows()
  if redis.call('EXISTS', P .. 'frozen') == 1 then return 0 end -- restored, and nobody has said yet that it may go on
  local gate = redis.call('HGET', P .. 'gate', A.ep)
  if not gate then return A.n end
  local bar = string.find(gate, '|', 1, true)
  local state, untl = string.sub(gate, 1, bar - 1), tonumber(string.sub(gate, bar + 1))
  if state ~= 'closed' then return A.n end
  if untl > NOW then return 0 end
  -- Nobody has renewed it: one message at a time may try.
  local trial = P .. 'trial:' .. A.ep
  if (tonumber(redis.call('GET', trial) or 0) or 0) > NOW then return 0 end
  redis.call('SET', trial, int(NOW + A.lease), 'PX', int(A.lease))
  return 1
end

local last_key = P .. 'last:' .. A.w .. ':' .. A.ep
local last = redis.call('GET', last_key)
if last then
  local L = cjson.decode(last)
  if L.req == A.req then
    for _, member in ipairs(L.ids) do
      local c, s = split_member(member)
      local S = load_side(c, s)
      if S and S.t ~= '' and S.l > NOW then
        local At = read_attempt(S.m, S.n)
        if At and At.w == A.w and At.ep == A.ep then out[#out + 1] = describe(S, S.m, At) end
      end
    end
    return out
  end
end

local allowed = gate_allows()
local due = redis.call('ZRANGEBYSCORE', P .. 'd:' .. A.ep, '-inf', NOW, 'LIMIT', 0, math.min(A.n, 100))
for _, member in ipairs(due) do
  local c, s = split_member(member)
  local readable, S = pcall(load_side, c, s)
  if not readable then
    redis.call('ZADD', P .. 'd:' .. A.ep, NOW + UNREADABLE_MS, member)
  elseif not S or S.dp ~= A.ep then
    redis.call('ZREM', P .. 'd:' .. A.ep, member)
    journal('repair.made', c, '', A.ep, {what = 'due entry without work'})
  else
    run_out(S)
    if S.l > NOW then
      redis.call('ZADD', P .. 'd:' .. A.ep, S.l, member)
    else
      local head, M = ready_head(S)
      if S.w ~= '' or S.ep == '' then
        place(S)
      elseif S.b > NOW then
        place(S)
      elseif not head and not S.nd then
        place(S)
      elseif #out >= allowed then
        if allowed == 0 or allowed < A.n then redis.call('ZADD', P .. 'd:' .. A.ep, NOW + 1000, member) end
      elseif s == 'c' and redis.call('SISMEMBER', P .. 'no:' .. S.o, S.ad) == 1
          and not (M and M.k == 'confirmation') then
        drop_notice(S)
        want_plan(S, 'no_consent')
        place(S)
      elseif S.nd and begin_notice(S) then -- luacheck: ignore
        -- The notice went first.
      elseif not head then
        place(S)
      elseif S.nd and (S.nd.h or 0) > NOW then
        place(S)
      elseif S.h > NOW then
        place(S)
      else
        local verdict, why = M.ac >= ATTEMPTS_KEPT and 'human' or 'begin', 'attempts_exhausted'
        if M.st == 'unknown' then
          local sends = 0
          for n = 1, M.ac do
            local At = read_attempt(head, n)
            if At and (At.o == 'unknown' or At.o == 'sent') then sends = sends + 1 end
          end
          if sends >= A.attempts_max then verdict, why = 'human', 'unknown_too_often' end
        end
        if verdict == 'begin' and M.ac > 0 then
          local At = read_attempt(head, M.ac)
          if At and At.e == S.e and not may_retry() then verdict = 'wait' end
        end
        if verdict == 'human' then
          set_state(head, 'needs_human', why)
          redis.call('HSET', P .. 'm:' .. head, 'hu', int(NOW + A.human_ms))
          hold(S, NOW + A.human_ms)
          journal('message.changed', c, head, A.ep, {st = 'needs_human', r = why, s = s})
          place(S)
        elseif verdict == 'wait' then
          hold(S, NOW + 1000)
          place(S)
        else
          if M.uk ~= '' and not (A.idem == 1 and M.uk == S.ep) then redis.call('HSET', P .. 'm:' .. head, 'fl', '1') end
          local At = begin(S, head, M.cl, M.k)
          out[#out + 1] = describe(S, head, At)
          if M.ac == 0 then retry = math.min(50, budget() + 0.1) end
        end
      end
    end
  end
end
if retry then redis.call('HSET', P .. 'retry', 'n', retry, 'at', int(NOW)) end
if #out > 0 then redis.call('SET', last_key, cjson.encode({req = A.req, ids = names}), 'PX', 60000) end
return out
