-- Puts a session's head back to what Postgres has, after Postgres has gone back. Keys: accept.lua.
--
-- Numbers that were given out stay so: what is accepted next leaves a gap, where `aforo verify` sees what is missing. Until then
-- the head must not expire, for only it knows them.
--
-- KEYS[1] the mailbox. ARGV: session id, the version that the head claims, then as Postgres has it: version, last seq,
-- capacity, reserved, waiting, waitlist capacity, state.
-- Answers 1, or 0 if the head says something else by now.

local key = string.sub(KEYS[1], 1, -8) .. 's:' .. ARGV[1]
local head = redis.call('HMGET', key, 'v', 'q')
if head[1] ~= ARGV[2] then return 0 end
redis.call(
  'HSET', key, 'v', ARGV[3], 'a', ARGV[4], 'c', ARGV[5], 'r', ARGV[6], 'w', ARGV[7], 'l', ARGV[8], 's', ARGV[9]
)
if tonumber(head[2]) > tonumber(ARGV[4]) then redis.call('PERSIST', key) end
return 1
