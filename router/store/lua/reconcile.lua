-- reconcile: put back in place what is not where its work is. On a sound store it changes nothing.
--
-- ARGV[2]  JSON: ids list of conversations, at most 50
-- Answers  a list of {conversation, side, words}, one for each repair; each is in the journal, too
-- Guarantees  judges by what every other script ends with (`due_of`): a side that stands there is left alone, as is an
--          attempt whose deadline has not long passed.

local LATE_MS = 60000 -- a dispatcher that died is started again far sooner
local SCORE_LATE_MS = 30000 -- scripts put a side off by 5 s at most without leaving a reason in its record

local out = {}

local function repair(S, words)
  journal('repair.made', S.c, S.m, S.ep, {what = words, s = S.s})
  out[#out + 1] = {S.c, S.s, words}
end

local function reconcile(S)
  if S.l > 0 and S.t == '' then
    repair(S, 'a lease without an attempt was taken away')
    release(S)
    place(S)
  elseif S.t ~= '' and S.l < NOW - LATE_MS then
    repair(S, 'an attempt that ran out long ago was ended')
    run_out(S)
    place(S)
  end
  local set, score = due_of(S)
  local stands = S.dp ~= '' and redis.call('ZSCORE', P .. 'd:' .. S.dp, S.id)
  local words = nil
  if S.dp ~= set then
    words = set == '' and 'it was due with nothing to do' or S.dp == '' and 'it was in no due set' or 'it was in a wrong due set'
  elseif set ~= '' and not stands then
    words = 'it was not in its due set'
  elseif set ~= '' and tonumber(stands) > score + SCORE_LATE_MS then
    words = 'it was due too late'
  end
  if words then
    repair(S, words)
    place(S)
  end
end

for i, conversation in ipairs(cjson.decode(ARGV[2]).ids) do
  if i > 50 then break end
  for _, side in ipairs({'c', 'a'}) do
    local S = load_side(conversation, side)
    if S then reconcile(S) end
  end
end
return out
