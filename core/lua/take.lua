-- Reads the oldest entries of a mailbox, and leaves a mark that goes when they are applied: who finds it knows that the
-- worker before died over them. The caller holds the partition's lock, or takes only what is free. Keys: see accept.lua.
--
--   aforo:{p}:trial  hash  until: last entry of the batch under way; near: last entry of the portion of it being tried;
--                          name, deaths: the command being tried by itself
--
-- KEYS[1] the mailbox. ARGV: most entries to read; 'free' if nothing is wanted where there is a mark, for somebody may be at it,
-- or one's own mark, to read on behind what one has committed and not told yet, as long as nobody else came across it.
-- Answers {until or '' if nobody died, near or '' if nobody died over the portion at the start, entries}: after a death only
-- those in doubt.

local prefix = string.sub(KEYS[1], 1, -8)
local trial = prefix .. 'trial'

local function after(a, b)
  local a_ms, a_n = string.match(a, '(%d+)-(%d+)')
  local b_ms, b_n = string.match(b, '(%d+)-(%d+)')
  if tonumber(a_ms) ~= tonumber(b_ms) then return tonumber(a_ms) > tonumber(b_ms) end
  return tonumber(a_n) > tonumber(b_n)
end

local way = ARGV[2] or ''
local is_behind = way ~= '' and way ~= 'free'
if is_behind then
  local mark = redis.call('HMGET', trial, 'until', 'near', 'name')
  if mark[1] ~= way or mark[2] or mark[3] then return { '', '', {} } end
end
local entries = redis.call('XRANGE', KEYS[1], is_behind and '(' .. way or '-', '+', 'COUNT', ARGV[1])
if #entries == 0 then
  if way ~= '' then return { '', '', entries } end
  redis.call('DEL', trial, prefix .. 'bell')
  return { '', '', entries }
end
local suspect = redis.call('HGET', trial, 'until')
if suspect and not after(entries[1][1], suspect) then
  if way ~= '' then return { '', '', {} } end
  local near = redis.call('HGET', trial, 'near')
  if not near or after(entries[1][1], near) then near = '' end
  local doubted = near == '' and suspect or near
  return { suspect, near, redis.call('XRANGE', KEYS[1], '-', doubted, 'COUNT', ARGV[1]) }
end
if suspect then redis.call('DEL', trial) end
-- Written last and allowed to fail: at maxmemory a batch must still be drained, only without the mark. It is of workers that die,
-- and goes into no log: a server that dies may forget it, and a batch need not wait for the disk before it has begun.
redis.set_repl(redis.REPL_NONE)
redis.pcall('HSET', trial, 'until', entries[#entries][1])
return { '', '', entries }
