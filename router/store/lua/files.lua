-- files: which files on disk messages refer to.
--
-- ARGV[2]  JSON list of message ids, at most 500; what is gone is passed over
-- Answers  a list of SHA-256: raw mails and attachments; one may come twice

local found = {}
for _, id in ipairs(cjson.decode(ARGV[2])) do
  local M = redis.call('HMGET', P .. 'm:' .. id, 'og', 'b')
  if M[1] and M[1] ~= '' then found[#found + 1] = M[1] end
  if M[2] and string.find(M[2], '"files":[[', 1, true) then
    for _, file in ipairs(cjson.decode(M[2]).files or {}) do found[#found + 1] = file[1] end
  end
end
return found
