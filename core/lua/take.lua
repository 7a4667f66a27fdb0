-- Reads the oldest entries of a mailbox, and leaves a mark that goes when they are applied: who finds it knows that the
-- worker before died over them. The caller holds the partition's lock, or takes only what is free. Keys: see accept.lua.
--
--   aforo:{p}:trial  hash  until: last entry of the batch under way; near: last entry of the portion of it being tried;
--                          name, deaths: the command being tried by itself
--
-- KEYS[1] the mailbox. ARGV: most entries to read; 'free' if nothing is wanted where there is a mark, for somebody may be at it,
-- or one's own mark, to read on behind what one has committed and not told yet, as long as nobody else came across it; 1 if the caller
-- reads the mailbox itself behind this call: a script takes three times as long to hand an entry on.
-- Answers {until or '' if nobody died, near or '' if nobody died over the portion at the start, entries, last}: after a death only
-- those in doubt; `last` is '' unless it is up to there that the caller is to take what it reads, and then there are no entries here.

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
  if mark[1] ~= way or mark[2] or mark[3] then return { '', '', {}, '' } end
end
local is_left = ARGV[3] == '1' and redis.call('XLEN', KEYS[1]) <= tonumber(ARGV[1]) -- else only reading tells which is the last
local count = is_left and 1 or ARGV[1]
local entries = redis.call('XRANGE', KEYS[1], is_behind and '(' .. way or '-', '+', 'COUNT', count)
if #entries == 0 then
  if way == '' then redis.call('DEL', trial, prefix .. 'bell') end
  return { '', '', {}, '' }
end
local suspect = redis.call('HGET', trial, 'until')
if suspect and not after(entries[1][1], suspect) then
  if way ~= '' then return { '', '', {}, '' } end
  local near = redis.call('HGET', trial, 'near')
  if not near or after(entries[1][1], near) then near = '' end
  local doubted = near == '' and suspect or near
  return { suspect, near, redis.call('XRANGE', KEYS[1], '-', doubted, 'COUNT', ARGV[1]), '' }
end
if suspect then redis.call('DEL', trial) end
-- Written last and allowed to fail: at maxmemory a batch must still be drained, only without the mark. It is of workers that die,
-- and goes into no log: a server that dies may forget it, and a batch need not wait for the disk before it has begun.
redis.set_repl(redis.REPL_NONE)
local last = is_left and redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][1] or entries[#entries][1]
redis.pcall('HSET', trial, 'until', last)
return { '', '', is_left and {} or entries, is_left and last or '' }
