-- wake: look again now at sides that wait for a route, because an endpoint came back.
--
-- ARGV[2]  JSON: n at most 100, after score to go on from
-- Answers  {how many, highest score seen}

local A = cjson.decode(ARGV[2])
local rows = redis.call('ZRANGEBYSCORE', P .. 'd:@plan', '(' .. int(math.max(A.after, NOW)), '+inf', 'WITHSCORES', 'LIMIT',
  0, math.min(A.n, 100))
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
