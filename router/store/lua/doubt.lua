-- doubt: Redis came back older than it was. What waits to be said may have been said in the time that is lost.
--
-- ARGV[2]  JSON: ids list of conversations, at most 50
-- Answers  how many messages were flagged
-- Guarantees  every message and notice that waits there, or is under way, says of itself from now on that it may be a repeat.

local WAITING = {queued = true, parked = true, sending = true, unknown = true, needs_human = true}
local flagged = 0

for i, conversation in ipairs(cjson.decode(ARGV[2]).ids) do
  if i > 50 then break end
  for _, side in ipairs({'c', 'a'}) do
    local S = load_side(conversation, side)
    if S and S.nd and S.nd.fl ~= 1 then
      S.nd.fl = 1
      save_notice(S)
      if redis.call('EXISTS', P .. 'm:' .. S.nd.id) == 1 then redis.call('HSET', P .. 'm:' .. S.nd.id, 'fl', '1') end
      flagged = flagged + 1
    end
    for _, message in ipairs(redis.call('LRANGE', P .. 'q:' .. conversation .. ':' .. side, 0, 1099)) do
      local key = P .. 'm:' .. message
      local M = redis.call('HMGET', key, 'st', 'fl')
      if WAITING[M[1]] and M[2] ~= '1' then
        redis.call('HSET', key, 'fl', '1')
        flagged = flagged + 1
      end
    end
  end
end
return flagged
