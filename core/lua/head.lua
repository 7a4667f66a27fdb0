-- Puts a session's head, as Postgres has it, where there is none or an older one. Keys: accept.lua.
--
-- KEYS[1] the mailbox. ARGV: session id, version, last seq, capacity, reserved, waiting, waitlist capacity,
-- state, idle head's TTL in seconds, now.
-- Answers 1 if this data set never saw the partition before (new, or Redis lost everything), else 0.

local prefix = string.sub(KEYS[1], 1, -8)
local key = prefix .. 's:' .. ARGV[1]
local version = redis.call('HGET', key, 'v')
if not version then
  redis.call('HSET', key, 'q', ARGV[3])
  redis.call('EXPIRE', key, ARGV[9])
end
if not version or tonumber(ARGV[2]) > tonumber(version) then
  redis.call(
    'HSET', key, 'v', ARGV[2], 'a', ARGV[3], 'c', ARGV[4], 'r', ARGV[5], 'w', ARGV[6], 'l', ARGV[7], 's', ARGV[8]
  )
end
return redis.call('SET', prefix .. 'born', ARGV[10], 'NX') and 1 or 0
