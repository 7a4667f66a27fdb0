-- Puts a session's head back to what Postgres has, after Postgres has gone back. Keys: accept.lua.
--
-- Numbers that were given out stay so: what is accepted next leaves a gap, where `aforo verify` sees what is missing. Until then
-- the head must not expire, for only it knows them.
--
-- KEYS[1] the mailbox. ARGV: session id, the version that the head claims, then as Postgres has it: last seq, and the head from its
-- version on.
-- Answers 1, or 0 if the head says something else by now.

local key = string.sub(KEYS[1], 1, -8) .. 's:' .. ARGV[1]
local head = redis.call('MGET', key)[1]
if not head then return 0 end
local numbering, version = string.match(head, '^(%d+ %d+ %S+ %S+ )(%d+)')
if version ~= ARGV[2] then return 0 end
if tonumber(string.match(numbering, '^%d+')) > tonumber(ARGV[3]) then
  redis.call('SET', key, numbering .. ARGV[4])
else
  redis.call('SET', key, numbering .. ARGV[4], 'KEEPTTL')
end
return 1
