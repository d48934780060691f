-- plan: take sides that need a route decided. Claimed for five seconds; a planner that dies costs that long.
--
-- ARGV[2]  JSON: n at most 100
-- Answers  a list of JSON facts about each side (see affected.lua), `w` says why it needs a plan

local A = cjson.decode(ARGV[2])
local out = {}
if redis.call('EXISTS', P .. 'frozen') == 1 then return out end -- nobody is moved, and no notice is made, meanwhile
for _, member in ipairs(redis.call('ZRANGEBYSCORE', P .. 'd:@plan', '-inf', NOW, 'LIMIT', 0, math.min(A.n, 100))) do
  local c, s = split_member(member)
  local readable, S = pcall(load_side, c, s)
  if not readable then
    redis.call('ZADD', P .. 'd:@plan', NOW + UNREADABLE_MS, member)
  elseif not S or S.dp ~= '@plan' then
    redis.call('ZREM', P .. 'd:@plan', member)
  else
    run_out(S)
    if S.t == '' then ready_head(S) end
    if S.l > NOW or (S.w == '' and S.ep ~= '') or not (redis.call('LINDEX', P .. 'q:' .. S.id, 0) or S.nd) then
      if S.l <= NOW and S.w ~= '' then want_plan(S, '') end
      place(S)
    else
      redis.call('ZADD', P .. 'd:@plan', NOW + 5000, member)
      out[#out + 1] = side_facts(S)
    end
  end
end
return out
