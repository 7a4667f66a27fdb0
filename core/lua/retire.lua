-- Takes out the heads of sessions that are being removed, so that nothing more is accepted for them. Keys: accept.lua.
--
-- KEYS[1] the mailbox. ARGV: (session id, last applied seq) ... as Postgres has them; the caller holds the partition's lock.
-- Answers the ids of those of which nothing waits to be applied; the others keep their heads.

local prefix = string.sub(KEYS[1], 1, -8)
local empty = redis.call('XLEN', KEYS[1]) == 0
local retired = {}
for i = 1, #ARGV, 2 do
  local key = prefix .. 's:' .. ARGV[i]
  local head = redis.call('MGET', key)[1] or head_of_before(key)
  if empty or not head or string.match(head, '^%d+') == ARGV[i + 1] then
    redis.call('DEL', key)
    retired[#retired + 1] = ARGV[i]
  end
end
return retired
