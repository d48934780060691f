-- settle: record what came of attempts, free their leases, make their sides due for what is next.
--
-- ARGV[2]  JSON list, at most 100: c conversation, s side, m message, n attempt number, f fence, o outcome, r reason,
--          v vendor ids, in wait before a retry, occ occupied for, due receipt within, all in ms from now or 0, text what a
--          notice said
--          outcomes: sent delivered returned unavailable throttled unknown rejected unreachable misconfigured
-- Answers  a list: 'ok', 'late' (recorded as evidence on its attempt only) or 'missing'
-- Guarantees  a fence that is not the side's changes nothing but its attempt's evidence. A message is removed by id.
--          A receipt that came before the response is taken into account in the same step.

local RANK = {sending = 0, queued = 0, unknown = 1, sent = 2, delivered = 3, read = 4}

local function is_left(S, At)
  return At.ep ~= S.ep or At.ad ~= S.ad
end

local function taken(S, O, At)
  local key = P .. 'm:' .. O.m
  local state = O.o
  for n = 1, At.n - 1 do -- an earlier attempt may have got further
    local earlier = read_attempt(O.m, n)
    if earlier and (RANK[earlier.o] or 0) > RANK[state] then state = earlier.o end
  end
  set_state(O.m, state, '')
  redis.call('HDEL', key, 'uk', 'na')
  if redis.call('LREM', P .. 'q:' .. S.id, 1, O.m) == 1 then hold(S, 0) end
  if O.text then redis.call('HSET', key, 'b', O.text) end
  if O.o == 'sent' and O.due > 0 then redis.call('ZADD', P .. 'aw:' .. At.ep, int(NOW + O.due), At.t) end
  if O.occ > 0 and not is_left(S, At) then
    S.b = NOW + O.occ
    redis.call('HSET', S.key, 'b', int(S.b))
  end
  redis.call('HSET', P .. 'pair:' .. At.ep .. '|' .. At.ad, S.c, int(NOW))
  if string.sub(At.ep, 1, 6) == 'email/' and O.v and O.v[1] then
    redis.call('RPUSH', P .. 'mt:' .. S.c, O.v[1])
    redis.call('LTRIM', P .. 'mt:' .. S.c, -20, -1)
  end
  if redis.call('HGET', key, 'k') == 'notice' then
    for _, member in ipairs(covers_of(S, O.m)) do
      local c = split_member(member)
      redis.call('HSET', P .. 'pair:' .. At.ep .. '|' .. At.ad, c, int(NOW))
    end
    notice_told(S, O.m)
  end
end

-- Not here: the planner looks for another way.
local function exclude(S, O, At)
  local key = P .. 'm:' .. O.m
  if S.nd and S.nd.id == O.m then
    -- Nobody there for a notice is nobody there for what waits behind it, and for the notice that replaces this one.
    local gone = S.nd.na or {}
    if O.o == 'unreachable' and #gone < 20 then gone[#gone + 1] = {ep = At.ep, ad = At.ad, o = O.o, r = O.r} end
    S.nd.na = #gone > 0 and gone or nil
    local head = redis.call('LINDEX', P .. 'q:' .. S.id, 0)
    if head then redis.call('HDEL', P .. 'm:' .. head, 'pu') end -- refused anew: not parked since
    want_plan(S, O.o)
    return
  end
  local na = redis.call('HGET', key, 'na')
  local list = na and cjson.decode(na) or {}
  if #list < 20 then list[#list + 1] = {ep = At.ep, ad = At.ad, o = O.o, r = O.r} end
  redis.call('HSET', key, 'na', cjson.encode(list))
  redis.call('HDEL', key, 'pu') -- refused anew: not parked since
  want_plan(S, O.o)
end

local function not_taken(S, O, At)
  local key = P .. 'm:' .. O.m
  local is_notice = S.nd and S.nd.id == O.m
  if not is_notice and redis.call('HGET', key, 'k') == 'notice' then
    -- The side moved on while it was being said; what it has to say now is another notice, or none.
    set_state(O.m, 'cancelled', 'superseded')
    return
  end
  if said_before(S, O.m, At.n) then return end
  local unsure = false
  for n = 1, At.n - 1 do
    local earlier = read_attempt(O.m, n)
    if earlier and earlier.o == 'unknown' then unsure = true end
  end
  set_state(O.m, unsure and 'unknown' or 'queued', O.r)
  if O.o == 'returned' then
    redis.call('HDEL', key, 'a' .. At.n)
    redis.call('HINCRBY', key, 'ac', -1)
    return
  end
  local later = 0
  if (O.o == 'throttled' or O.o == 'unavailable') and is_left(S, At) then
    later = 0 -- the pause is for that endpoint: a side that has moved on meanwhile has nothing to wait for
  elseif O.o == 'throttled' then
    -- Told to wait again and again, it waits longer, up to 30 s, so that the attempts a message has last for a while.
    local expires, wait = tonumber(redis.call('HGET', key, 'xp') or 0) or 0, O['in']
    if At.n > 4 then wait = math.max(wait, math.min(30000, 125 * 2 ^ math.min(At.n, 8))) end
    if expires > 0 and NOW + wait > expires then exclude(S, O, At) else later = NOW + wait end
  elseif O.o == 'unavailable' then
    -- Due again at once; from the second try on with a pause that doubles, up to 30 s.
    if At.n > 1 then later = NOW + math.min(30000, 125 * 2 ^ math.min(At.n, 8)) end
    if O['in'] > 0 then later = math.max(later, NOW + O['in']) end
  else
    exclude(S, O, At)
  end
  if is_notice then
    S.nd.h = later
    save_notice(S)
  else
    hold(S, later)
  end
end

local function settle(O)
  local S = load_side(O.c, O.s)
  local At = S and read_attempt(O.m, O.n)
  if not At then return 'missing' end
  local current = S.f == O.f and At.f == O.f
  local open = current and S.t == At.t
  if not open then
    if At.o == 'unknown' or At.o == '' then
      At.late, At.lr = O.o, O.r
      if O.v then At.v = O.v end
      -- Nobody has begun another attempt: a certain answer still counts.
      if current and (O.o == 'sent' or O.o == 'delivered')
          and redis.call('HGET', P .. 'm:' .. O.m, 'st') == 'unknown' then
        At.o, At.x = O.o, NOW
        write_attempt(O.m, At)
        taken(S, O, At)
        journal('attempt.ended', O.c, O.m, At.ep, {n = At.n, o = O.o, r = 'late', e = At.e, f = At.f, s = S.s})
        place(S)
        return 'late'
      end
      write_attempt(O.m, At)
    end
    return 'late'
  end
  if O.o == 'unknown' then
    become_unknown(S, At, O.r)
    if O.v then
      At.v = O.v
      write_attempt(O.m, At)
    end
    place(S)
    return 'ok'
  end
  At.o, At.x, At.r = O.o, NOW, O.r
  if O.v then At.v = O.v end
  write_attempt(O.m, At)
  if O.o == 'sent' or O.o == 'delivered' then taken(S, O, At) else not_taken(S, O, At) end
  release(S)
  if O.o ~= 'returned' then
    hear_early(S, O.m, At)
    journal('attempt.ended', O.c, O.m, At.ep, {n = At.n, o = O.o, r = O.r, e = At.e, f = At.f, s = S.s,
      ms = NOW - At.b})
  end
  place(S)
  return 'ok'
end

local out = {}
for i, O in ipairs(cjson.decode(ARGV[2])) do
  if i > 100 then break end
  out[i] = settle(O)
end
return out
