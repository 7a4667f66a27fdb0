-- Names the one command about to be tried by itself, and counts how often a worker died over that name. Keys: take.lua.
--
-- KEYS[1] the mailbox. ARGV: the entry's id. Answers the number of deaths so far.

local trial = string.sub(KEYS[1], 1, -8) .. 'trial'
local deaths = 0
if redis.call('HGET', trial, 'name') == ARGV[1] then
  deaths = tonumber(redis.call('HGET', trial, 'deaths') or '0') + 1
end
redis.pcall('HSET', trial, 'name', ARGV[1], 'deaths', deaths)
return deaths
