-- Moves a partition's word: something of it changed that readers may have kept. Keys: accept.lua.
--
-- KEYS[1] the mailbox. A data set that has no word yet begins with its microsecond, so that no word of another comes again.

local key = string.sub(KEYS[1], 1, -8) .. 'changes'
if redis.call('INCR', key) == 1 then
  local time = redis.call('TIME')
  redis.call('SET', key, string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2])))
end
