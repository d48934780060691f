-- inspect: one conversation as it stands, with a part of its transcript, for the auditor and the archive. Changes nothing.
--
-- ARGV[2]  JSON: c conversation, at position in the transcript to begin from, n messages at most 200, bytes of them at most
-- Answers  {} if there is none, else {conversation's fields, time in ms, length of the transcript,
--          {score in `open` or '', score in `closed` or '', 1 if among its customer's open ones},
--          customer's side, agent's side, {{message id, fields, what its natural key says or ''}, ...}}
--          a side: {fields, queue, score in its due set or '', score in `at` or '', legs, 1 if its place is refused}
-- Guarantees  all of it is of one moment. At least one message is answered if there is one, however long.

local A = cjson.decode(ARGV[2])
local conversation = redis.call('HGETALL', P .. 'v:' .. A.c)
if #conversation == 0 then return {} end

local function side(name)
  local id = A.c .. ':' .. name
  local key = P .. 's:' .. id
  local S = redis.call('HMGET', key, 'o', 'ep', 'ad', 'dp')
  local due = S[4] and S[4] ~= '' and redis.call('ZSCORE', P .. 'd:' .. S[4], id)
  local at = S[2] and S[2] ~= '' and redis.call('ZSCORE', P .. 'at:' .. S[2], id)
  return {redis.call('HGETALL', key), redis.call('LRANGE', P .. 'q:' .. id, 0, 1100), due or '', at or '',
    redis.call('LRANGE', P .. 'lg:' .. id, 0, -1), redis.call('SISMEMBER', P .. 'no:' .. (S[1] or ''), S[3] or '')}
end

local messages, bytes = {}, 0
for _, id in ipairs(redis.call('LRANGE', P .. 'g:' .. A.c, A.at, A.at + math.min(A.n, 200) - 1)) do
  local key = P .. 'm:' .. id
  local fields = redis.call('HGETALL', key)
  for _, part in ipairs(fields) do bytes = bytes + string.len(part) end
  if #messages > 0 and bytes > A.bytes then break end
  local natural = redis.call('HGET', key, 'nk')
  messages[#messages + 1] = {id, fields, natural and redis.call('GET', P .. 'nk:' .. natural) or ''}
end

local customer = redis.call('HGET', P .. 'v:' .. A.c, 'cu') or ''
return {conversation, int(NOW), redis.call('LLEN', P .. 'g:' .. A.c),
  {redis.call('ZSCORE', P .. 'open', A.c) or '', redis.call('ZSCORE', P .. 'closed', A.c) or '',
    redis.call('SISMEMBER', P .. 'op:' .. customer, A.c)}, side('c'), side('a'), messages}
