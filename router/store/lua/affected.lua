-- affected: what a failover must know of sides.
--
-- ARGV[2]  JSON: ids list of `conversation:side`, at most 100
-- Answers  a list of JSON facts, in the order asked, '' for what is gone

local out = {}
for i, member in ipairs(cjson.decode(ARGV[2]).ids) do
  if i > 100 then break end
  local c, s = split_member(member)
  local S = load_side(c, s)
  out[i] = S and side_facts(S) or ''
end
return out
