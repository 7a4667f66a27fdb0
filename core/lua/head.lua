-- Puts a session's head, as Postgres has it, where there is none or an older one. Keys: accept.lua.
--
-- KEYS[1] the mailbox. ARGV: session id, version, last seq, capacity, reserved, waiting, waitlist capacity,
-- state, idle head's TTL in seconds, when its first command was accepted (0: none was), finished jobs' TTL (both in milliseconds),
-- and which lanes whoever puts it goes by.
-- An older one is replaced because somebody saw the newer state in Postgres before it was published: what others keep may be older.
-- Answers 1 if this data set never saw the partition before (new, or Redis lost everything), -1 if there are other lanes, else 0.

local prefix = string.sub(KEYS[1], 1, -8)
local lanes = redis.call('GET', prefix .. 'lanes')
if lanes and lanes ~= ARGV[12] then return -1 end
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
local time = redis.call('TIME')
if version and tonumber(ARGV[2]) > tonumber(version) and redis.call('INCR', prefix .. 'changes') == 1 then
  redis.call('SET', prefix .. 'changes', string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2])))
end
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local never_seen = redis.call('SET', prefix .. 'born', string.format('%.0f', now), 'NX')
-- A session whose history is older than this data set has jobs that only the ledger knows; for as long as Redis would have known
-- them, repeats of them are to be looked for there.
local born = tonumber(redis.call('GET', prefix .. 'born'))
if not version and ARGV[10] ~= '0' and tonumber(ARGV[10]) < born then
  redis.call('HSET', key, 'f', string.format('%.0f', born + tonumber(ARGV[11])))
end
return never_seen and 1 or 0
