-- arrived: a message that was accepted elsewhere first, and is filed here, keeps when it came; who asked waits since then.
--
-- ARGV[2]  JSON: m message, at when it came, unix milliseconds
-- Answers  'ok', or 'missing' (nothing was written)
-- Guarantees  no time becomes later by it.

local A = cjson.decode(ARGV[2])
local key = P .. 'm:' .. A.m
local M = redis.call('HMGET', key, 'c', 'ca')
if not M[1] then return 'missing' end
if tonumber(M[2]) > A.at then redis.call('HSET', key, 'ca', int(A.at)) end
local conversation_key = P .. 'v:' .. M[1]
local C = redis.call('HMGET', conversation_key, 'qu', 'wa')
if C[1] ~= A.m or (tonumber(C[2] or 0) or 0) <= A.at then return 'ok' end
redis.call('HSET', conversation_key, 'wa', int(A.at))
redis.call('ZADD', P .. 'wait', 'XX', int(A.at), M[1])
local customer = load_side(M[1], 'c')
if customer and customer.ep ~= '' then redis.call('ZADD', P .. 'at:' .. customer.ep, 'XX', int(A.at), customer.id) end
return 'ok'
