-- Puts a session's head, as Postgres has it, where there is none or an older one. Keys: accept.lua.
--
-- KEYS[1] the mailbox. ARGV: session id, the head from its version on, version, last seq, idle head's TTL in seconds, when its first
-- command was accepted (0: none was), finished jobs' TTL (both in milliseconds), and which lanes whoever puts it goes by.
-- An older one is replaced because somebody saw the newer state in Postgres before it was published: what others keep may be older.
-- Answers 1 if this data set never saw the partition before (new, or Redis lost everything), -1 if there are other lanes, else 0.

local prefix = string.sub(KEYS[1], 1, -8)
local lanes = redis.call('GET', prefix .. 'lanes')
if lanes and lanes ~= ARGV[8] then return -1 end
local key = prefix .. 's:' .. ARGV[1]
local head = redis.call('MGET', key)[1] or head_of_before(key)
local known = head and tonumber(string.match(head, '^%d+ %d+ %S+ %S+ (%d+)'))
local is_newer = known and tonumber(ARGV[3]) > known
if is_newer then redis.call('SET', key, string.match(head, '^%d+ %d+ %S+ %S+ ') .. ARGV[2], 'KEEPTTL') end
local time = redis.call('TIME')
if is_newer and redis.call('INCR', prefix .. 'changes') == 1 then
  redis.call('SET', prefix .. 'changes', string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2])))
end
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local never_seen = redis.call('SET', prefix .. 'born', string.format('%.0f', now), 'NX')
if not head then
  -- A session whose history is older than this data set has jobs that only the ledger knows; for as long as Redis would have known
  -- them, repeats of them are to be looked for there.
  local born, first = tonumber(redis.call('GET', prefix .. 'born')), tonumber(ARGV[6])
  local upto = 0 < first and first < born and born + tonumber(ARGV[7]) or 0
  redis.call('SET', key, string.format('%s %.0f 0 0 %s', ARGV[4], upto, ARGV[2]), 'EX', ARGV[5])
end
return never_seen and 1 or 0
