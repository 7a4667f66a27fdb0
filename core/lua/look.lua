-- What a worker wants to know of a partition before it takes its turn there. It changes nothing. Keys: accept.lua.
--
-- KEYS[1] the mailbox. Answers {how many entries wait, for how many milliseconds the oldest has, 1 if a batch is under way}.

local prefix = string.sub(KEYS[1], 1, -8)
local waiting = redis.call('XLEN', KEYS[1])
if waiting == 0 then return { 0, 0, 0 } end
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1][1]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
return { waiting, now - tonumber(string.match(oldest, '^%d+')), redis.call('EXISTS', prefix .. 'trial') }
