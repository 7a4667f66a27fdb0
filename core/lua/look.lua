-- What a worker wants to know of a partition before it takes its turn there. Keys: accept.lua.
--
-- KEYS[1] the mailbox. ARGV: milliseconds for which the bell is kept, or nearly so, since the worker is there and will look again (0: it
-- is left as it is). Answers {how many entries wait, for how many milliseconds the oldest has, 1 if a batch is under way}.

local KEPT = 0.75 -- of that time left: putting it off costs three times as much as looking
local prefix = string.sub(KEYS[1], 1, -8)
if ARGV[1] ~= '0' then
  -- Of a worker that lives, not of data: it goes into no log, and at maxmemory it may fail, for then somebody rings.
  if redis.call('PTTL', prefix .. 'bell') < KEPT * tonumber(ARGV[1]) then
    redis.set_repl(redis.REPL_NONE)
    redis.pcall('SET', prefix .. 'bell', '1', 'PX', ARGV[1])
  end
end
local waiting = redis.call('XLEN', KEYS[1])
if waiting == 0 then return { 0, 0, 0 } end
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1][1]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
return { waiting, now - tonumber(string.match(oldest, '^%d+')), redis.call('EXISTS', prefix .. 'trial') }
