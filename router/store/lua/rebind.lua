-- rebind: end legs and begin others, or park what has no way now.
--
-- ARGV[2]  JSON list, at most 100: c conversation, s side, e expected epoch, and either
--          ep endpoint, ad address, r reason, nt notice {id, ...} or nil, hd hold after an unknown attempt's end in ms or -1,
--          auto 0/1 (counts as an automatic move), incident
--          or park for ms from now, r reason
--          or fail 1, m message, r reason: nothing will ever carry it, if it still is the head; its sender is told.
--          m '': nothing waits but a notice, and nobody is there to be told
-- Answers  a list: 'ok', 'epoch' (somebody else was faster), 'missing'
-- Guarantees  the expected epoch loses against a newer one; a live lease is never broken: its attempt settles or runs out
--          first, and the message is leased at the new endpoint only then. Ids and context stay (hash before = after).

local PARK_LEAST_MS = 1000

-- Nobody can be told: it has ended, and so has whatever it was to speak for.
local function fail_notice(S, reason)
  if redis.call('HGET', P .. 'm:' .. S.nd.id, 'st') == 'queued' then
    set_state(S.nd.id, 'failed', reason)
    journal('message.changed', S.c, S.nd.id, S.ep, {st = 'failed', r = reason, s = S.s})
  end
  drop_notice(S)
end

local function rebind(B)
  local S = load_side(B.c, B.s)
  if not S then return 'missing' end
  if S.e ~= B.e then return 'epoch' end
  run_out(S)
  if B.fail == 1 then
    local head = redis.call('LINDEX', P .. 'q:' .. S.id, 0)
    if (head or '') == B.m and S.t == '' then
      if head then finish_head(S, head, 'failed', B.r) end
      if S.nd then fail_notice(S, B.r) end
    end
    want_plan(S, redis.call('LLEN', P .. 'q:' .. S.id) > 0 and S.w or '')
    place(S)
    return 'ok'
  end
  if B.park then
    B.park = NOW + math.max(B.park, PARK_LEAST_MS)
    local head = redis.call('LINDEX', P .. 'q:' .. S.id, 0)
    if head and S.t == '' then
      local state = redis.call('HGET', P .. 'm:' .. head, 'st')
      if state == 'queued' or state == 'parked' then
        redis.call('HSET', P .. 'm:' .. head, 'st', 'parked', 'r', B.r, 'pu', int(B.park))
        if state == 'queued' then
          journal('message.changed', S.c, head, S.ep, {st = 'parked', r = B.r, untl = B.park, s = S.s})
        end
      elseif state == 'unknown' then
        redis.call('HSET', P .. 'm:' .. head, 'pu', int(B.park)) -- it stays in doubt, but it has waited
      end
    end
    if S.nd and S.nd.na then -- it has waited: by then somebody may be there, and the person's bindings know better
      S.nd.na = nil
      save_notice(S)
    end
    want_plan(S, B.r)
    hold(S, B.park)
    place(S)
    return 'ok'
  end
  local head = redis.call('LINDEX', P .. 'q:' .. S.id, 0)
  local from = S.ep
  if B.nt and S.nd then B.nt.na = S.nd.na end
  begin_leg(S, B.ep, B.ad, B.r, B.nt)
  if S.t ~= '' and B.hd >= 0 then redis.call('HSET', S.key, 'hc', int(B.hd)) end
  free_head(S)
  if B.auto == 1 then redis.call('HSET', P .. 'v:' .. B.c, 'mv', int(NOW)) end
  if head and S.t == '' then
    local state = redis.call('HGET', P .. 'm:' .. head, 'st')
    if state == 'unknown' and B.hd >= 0 then
      local count = tonumber(redis.call('HGET', P .. 'm:' .. head, 'ac') or 0)
      local At = count > 0 and read_attempt(head, count)
      local ended = At and tonumber(At.x or 0) or NOW
      hold(S, math.min(S.h, math.max(NOW, ended + B.hd)))
    end
  end
  journal('side.rebound', B.c, '', B.ep, {s = B.s, r = B.r, e = S.e, from = from, inc = B.incident})
  place(S)
  return 'ok'
end

local out = {}
for i, B in ipairs(cjson.decode(ARGV[2])) do
  if i > 100 then break end
  out[i] = rebind(B)
end
return out
