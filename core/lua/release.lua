-- Whoever kept a partition's bell goes: from here on the next command accepted rings. Keys: accept.lua.
--
-- KEYS[1] the mailbox. Answers how many entries wait; if any do, the bell stays, and whoever asked has somebody woken for them.

local waiting = redis.call('XLEN', KEYS[1])
if waiting == 0 then redis.call('DEL', string.sub(KEYS[1], 1, -8) .. 'bell') end
return waiting
