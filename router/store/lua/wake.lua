-- wake: look again now at sides that wait for a route, because an endpoint came back or a person has a new address.
--
-- ARGV[2]  JSON: n at most 100, after score to go on from; or only the sides `ids`, at most 100
-- Answers  {how many, highest score seen}

local A = cjson.decode(ARGV[2])
if A.ids then
  local count = 0
  for i, member in ipairs(A.ids) do
    local c, s = split_member(member)
    local S = i <= 100 and load_side(c, s)
    if S and S.dp == '@plan' and S.t == '' then
      hold(S, 0)
      place(S)
      count = count + 1
    end
  end
  return {count, '0'}
end
-- From that score on, not behind it: many may share it, and whoever was woken stands at NOW.
local from = A.after > NOW and int(A.after) or '(' .. int(NOW)
local rows = redis.call('ZRANGEBYSCORE', P .. 'd:@plan', from, '+inf', 'WITHSCORES', 'LIMIT', 0, math.min(A.n, 100))
local highest = A.after
for i = 1, #rows, 2 do
  local c, s = split_member(rows[i])
  local S = load_side(c, s)
  highest = tonumber(rows[i + 1])
  if S and S.t == '' then
    hold(S, 0)
    place(S)
  end
end
return {#rows / 2, int(highest)}
