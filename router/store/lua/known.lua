-- known: what this shard knows of where a message came from. Changes nothing.
--
-- ARGV[2]  JSON: nk natural key, pr address pair, h the hidden conversation of the place, cu customer ids, at most 100,
--          n conversations that spoke over the pair, the latest ones, at most 100
-- Answers  {what stands under the natural key or '', 1 if the hidden conversation is there,
--          {conversation id, when it last spoke over the pair in ms, ...},
--          {{customer id, fields, bindings, {ids of the open conversations}}, ...},
--          {{conversation id, fields}, ...}}
-- Guarantees  all of it is of one moment. Of the conversations named, the first 100 are read: the open ones first.

local READ_MAX = 100
local A = cjson.decode(ARGV[2])
local conversations, seen = {}, {}

local function read(conversation)
  if #conversations >= READ_MAX or seen[conversation] then return end
  seen[conversation] = true
  local fields = redis.call('HGETALL', P .. 'v:' .. conversation)
  if #fields > 0 then conversations[#conversations + 1] = {conversation, fields} end
end

local customers = {}
for i, id in ipairs(A.cu) do
  if i > 100 then break end
  local fields = redis.call('HGETALL', P .. 'cu:' .. id)
  if #fields > 0 then
    local open = redis.call('SMEMBERS', P .. 'op:' .. id)
    customers[#customers + 1] = {id, fields, redis.call('HGETALL', P .. 'bd:' .. id), open}
    for _, conversation in ipairs(open) do read(conversation) end
  end
end

local pair = redis.call('HGETALL', P .. 'pair:' .. A.pr)
local latest = {}
for i = 1, #pair, 2 do latest[#latest + 1] = {pair[i], tonumber(pair[i + 1])} end
table.sort(latest, function(one, other) return one[2] > other[2] end)
for i, one in ipairs(latest) do
  if i > A.n then break end
  read(one[1])
end

return {redis.call('GET', P .. 'nk:' .. A.nk) or '', redis.call('EXISTS', P .. 'v:' .. A.h), pair, customers, conversations}
