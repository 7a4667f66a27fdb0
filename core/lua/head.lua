-- Puts a session's head, as Postgres has it, where there is none or an older one. Keys: accept.lua.
--
-- KEYS[1] the mailbox. ARGV: session id, version, last seq, capacity, reserved, waiting, idle head's TTL in seconds, now.
-- Answers 1 if this data set never saw the partition before (new, or Redis lost everything), else 0.

local prefix = string.sub(KEYS[1], 1, -8)
local key = prefix .. 's:' .. ARGV[1]
local version = redis.call('HGET', key, 'v')
if not version then
  redis.call('HSET', key, 'q', ARGV[3], 'a', ARGV[3], 'v', ARGV[2], 'c', ARGV[4], 'r', ARGV[5], 'w', ARGV[6])
  redis.call('EXPIRE', key, ARGV[7])
elseif tonumber(ARGV[2]) > tonumber(version) then
  redis.call('HSET', key, 'a', ARGV[3], 'v', ARGV[2], 'c', ARGV[4], 'r', ARGV[5], 'w', ARGV[6])
end
return redis.call('SET', prefix .. 'born', ARGV[8], 'NX') and 1 or 0
