-- Accepts a group of commands of one partition: one call, one fsync, an answer for each.
--
-- Every key of a partition carries its hash tag, so that all of them share one slot:
--   aforo:{p}:mailbox     stream  s: seq, c: the command (msgpack)      an entry goes when it is applied and published
--   aforo:{p}:job:<id>    string  'q' or 'd' and an array (core/entries.py)  while queued never expires; done: the job TTL
--   aforo:{p}:s:<id>      hash    the session's head: q last queued seq, a last applied seq, v version, c capacity,
--                                 r reserved, w waiting, l waitlist capacity,
--                                 s state (open, closed, cancelled),
--                                 f until when (ms) its jobs from before `born` are looked for in the ledger (head.lua),
--                                 o by how much q was raised, u from which number on (publish.lua)
--                                                                     idle (q = a): minutes; else never
--   aforo:{p}:bell        string  somebody is draining, or a wake-up is on its way   a second or so
--   aforo:{p}:pace        string  commands applied a second, lately      a minute
--   aforo:{p}:trial       hash    the batch being applied (quarantine)    see take.lua
--   aforo:{p}:born        string  when this data set first saw the partition   never; its absence tells of lost data
--   aforo:{p}:changes     string  a number that grows with every change readers can see (changed.lua, core/freshness.py)   never
--   aforo:{p}:total:<who> string  commands accepted from one API process; it tells lost data     a day
--   aforo:{p}:doubt       string  Postgres has gone back: what done jobs of before show may be lost      as long as they: the job TTL
--   aforo:{p}:lanes       string  how many partitions there are, and since which change; or 'shut'     never; none before the first
-- And of no partition:
--   aforo:asked           string  written so that replicas can be asked what they have (core/replicas.py)   never
--   aforo:{limits}:a:<address>  string  the microsecond at which this address may send a whole burst again   when a minute past that
--   aforo:{limits}:k:<key id>   string  the same of an API key; both are in no log and in no command's slot  the same
--   aforo:era             string  a word that changes when history was rewritten: what readers kept is worth nothing   never
--   aforo:created         string  a word that changes with every session that is created     a minute; see core/unknown.py
--   aforo:{operations}:alive     hash    the last sign of life of each worker process and sweeper    never; core/pulse.py
--   aforo:{operations}:slot:<n>  hash    what was applied in two seconds, by outcome and latency, and what waited    15 minutes
--   aforo:{operations}:verified  string  what the last `aforo verify` said     never; core/operations.py
--   aforo:{operations}:console:<SHA-256>  string  the key by which somebody is signed in to the console    12 hours; core/signins.py
--   aforo:revoked:<id>    string  this API key was revoked      a day; for processes that cannot ask Postgres
--
-- KEYS[1] the mailbox. ARGV: most entries that may wait, bell's milliseconds, the API process, its total's TTL in seconds and
-- what it was told of it last, a digit for each command (1: its job id follows from a key, so it may repeat a job that only the
-- ledger knows; 2: its session's counts are to be told; 3: both), then for each: job id, session id, the job record up to its seq,
-- the command.
-- Answers {depth, pace, rung (1: ring the doorbell), answers, {{session id, a, c, r, w, l, s} ...}, the process's total before, by how
-- much it has grown}. `answers` has two values for each command: seq and accepted at of one that was accepted now, or a tag and a
-- text: K known already (the record), L look into the ledger first, F full, H head unknown, S shut, E the server refused (why).

-- Functions share nothing with their script, for what they share is made anew in every call (a tenth of its time).

-- A job that was done when Postgres went back: it expires before the doubt does. Only the ledger knows whether it is still so.
local function is_doubted(known, key, doubt)
  if string.byte(known) ~= 100 then return false end -- 'd'
  local left = redis.call('PTTL', doubt)
  return left > 0 and redis.call('PTTL', key) <= left
end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local prefix = string.sub(KEYS[1], 1, -8)
local jobs, sessions, doubt = prefix .. 'job:', prefix .. 's:', prefix .. 'doubt'
local limit = tonumber(ARGV[1])
local are_shown = string.find(ARGV[6], '[23]')

-- One look for all that lies under one key: first what belongs to none of the commands, then their jobs.
local AHEAD = 4
local total, bell = prefix .. 'total:' .. ARGV[3], prefix .. 'bell'
local keys = { prefix .. 'lanes', prefix .. 'pace', bell, total }
for i = 7, #ARGV, 4 do keys[#keys + 1] = jobs .. ARGV[i] end
local found = redis.call('MGET', unpack(keys))
local shut = found[1] == 'shut'
local depth = redis.call('XLEN', KEYS[1])
local heads = {} -- by session: q, f and what is to be told; false: there is none
local queued = {} -- by session: its last seq, where something was accepted
local shown = {}
local records = {} -- of what is accepted: key, record, key, record ...
local mine = {} -- the same by key, for the same job may be twice in a group
local before = tonumber(found[4] or '0')
local answers = {}

for number = 1, #keys - AHEAD do
  local i = 4 * number + 4
  local session = ARGV[i]
  local head = heads[session]
  if head == nil then
    if are_shown then
      head = redis.call('HMGET', sessions .. session, 'q', 'f', 'a', 'c', 'r', 'w', 'l', 's')
      if head[1] then shown[#shown + 1] = { session, unpack(head, 3, 8) } end
    else
      head = redis.call('HMGET', sessions .. session, 'q', 'f')
    end
    head = head[1] and head
    heads[session] = head
  end
  local key = keys[AHEAD + number]
  local known = mine[key] or found[AHEAD + number]
  local is_keyed = string.byte(ARGV[6], number) % 2 == 1 -- '1' or '3'
  local first, second
  if known and not is_doubted(known, key, doubt) then
    first, second = 'K', known
  elseif shut then
    first, second = 'S', ''
  elseif is_keyed and (known or head and head[2] and tonumber(head[2]) > now_ms()) then
    first, second = 'L', ''
  elseif depth >= limit then
    first, second = 'F', ''
  elseif not head then
    first, second = 'H', ''
  else
    first = (queued[session] or tonumber(head[1])) + 1
    -- The first write of all: where the server refuses it (out of memory), nothing has half happened.
    local id = redis.pcall('XADD', KEYS[1], '*', 's', first, 'c', ARGV[i + 2])
    if type(id) == 'table' then
      first, second = 'E', id['err']
    else
      second = tonumber(string.match(id, '^%d+'))
      local record = ARGV[i + 1] .. cmsgpack.pack(first, second)
      mine[key] = record
      records[#records + 1] = key
      records[#records + 1] = record
      queued[session] = first
      depth = depth + 1
    end
  end
  answers[#answers + 1] = first
  answers[#answers + 1] = second
end

local accepted = #records / 2
local rung = 0
local grown = 0
if accepted > 0 then
  redis.call('MSET', unpack(records))
  for session, seq in pairs(queued) do
    redis.call('HSET', sessions .. session, 'q', seq)
    redis.call('PERSIST', sessions .. session)
  end
  -- Where it was told of more, data was lost: the total stays until a reply has reached it that says so.
  if before >= tonumber(ARGV[5]) then
    grown = accepted
    redis.call('SET', total, before + accepted, 'EX', ARGV[4])
  end
  if not found[3] then
    redis.call('SET', bell, '1', 'PX', ARGV[2])
    rung = 1
  end
end
return { depth, found[2] or '0', rung, answers, shown, before, grown }
