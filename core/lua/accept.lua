-- Accepts a group of commands of one partition: one call, one fsync, an answer for each.
--
-- Every key of a partition carries its hash tag, so that all of them share one slot:
--   aforo:{p}:mailbox     stream  s: seq, c: the command (msgpack)      an entry goes when it is applied and published
--   aforo:{p}:job:<id>    string  'q' or 'd' and an array (core/entries.py)  while queued never expires; done: the job TTL
--   aforo:{p}:s:<id>      string  the session's head, numbers between spaces: q last queued seq; f until when (ms) its jobs from before
--                                 `born` are looked for in the ledger (head.lua); o by how much q was raised, u up to which
--                                 number, both with commas where that was twice (publish.lua); v version, a last applied seq, c capacity, r reserved, w waiting,
--                                 l waitlist capacity, and behind them s, its state (open, closed, cancelled)
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
-- ledger knows; 2: its session's counts are to be told; 3: both), then for each: its job's key, its session's, the job record up to
-- its seq, the command.
-- Answers {depth, pace, rung (1: ring the doorbell), answers, heads, the process's total before, by how much it has grown}. `answers`
-- has two values for each command: seq and accepted at of one that was accepted now, or a tag and a text: K known already (the
-- record), L look into the ledger first, F full, H head unknown, S shut, E the server refused (why). `heads`, where any are to be
-- told: as they were before, of the sessions in the order in which they come up.

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
local doubt = prefix .. 'doubt'
local limit = tonumber(ARGV[1])
local are_shown = string.find(ARGV[6], '[23]')

-- One look for all that lies under one key: first what belongs to none of the commands, then their jobs, then their sessions' heads.
local AHEAD = 4
local UINT64 = 0xcf -- how msgpack begins a number of eight bytes; to pack it so takes half the time of cmsgpack
local total, bell = prefix .. 'total:' .. ARGV[3], prefix .. 'bell'
local keys = { prefix .. 'lanes', prefix .. 'pace', bell, total }
local commands = (#ARGV - 6) / 4
local last = AHEAD + commands
for i = 1, commands do keys[AHEAD + i] = ARGV[4 * i + 3] end
local places = {} -- of the heads, by session
for i = 8, #ARGV, 4 do
  if not places[ARGV[i]] then
    keys[#keys + 1] = ARGV[i]
    places[ARGV[i]] = #keys
  end
end
local found = redis.call('MGET', unpack(keys))
local shut = found[1] == 'shut'
local depth = redis.call('XLEN', KEYS[1])
local shown = are_shown and { unpack(found, last + 1, #keys) } or {}
local queued = {} -- by session: its last seq, where something was accepted
local written = {} -- of what is accepted: key, record, key, record ...
local mine = {} -- the same by key, for the same job may be twice in a group
local before = tonumber(found[4] or '0')
local answers = {}
local accepted = 0

for number = 1, commands do
  local i = 4 * number + 4
  local session = ARGV[i]
  local head = found[places[session]]
  local key = keys[AHEAD + number]
  local known = mine[key] or found[AHEAD + number]
  local is_keyed = string.byte(ARGV[6], number) % 2 == 1 -- '1' or '3'
  local first, second
  if known and not is_doubted(known, key, doubt) then
    first, second = 'K', known
  elseif shut then
    first, second = 'S', ''
  elseif is_keyed and (known or head and tonumber(string.match(head, ' (%d+)')) > now_ms()) then
    first, second = 'L', ''
  elseif depth >= limit then
    first, second = 'F', ''
  elseif not head then
    first, second = 'H', ''
  else
    first = (queued[session] or tonumber(string.match(head, '^%d+'))) + 1
    -- The first write of all: where the server refuses it (out of memory), nothing has half happened.
    local id = redis.pcall('XADD', KEYS[1], '*', 's', first, 'c', ARGV[i + 2])
    if type(id) == 'table' then
      first, second = 'E', id['err']
    else
      second = tonumber(string.match(id, '^%d+'))
      local record = ARGV[i + 1] .. struct.pack('>BI8BI8', UINT64, first, UINT64, second)
      mine[key] = record
      accepted = accepted + 1
      written[2 * accepted - 1] = key
      written[2 * accepted] = record
      queued[session] = first
      depth = depth + 1
    end
  end
  answers[2 * number - 1] = first
  answers[2 * number] = second
end

local rung = 0
local grown = 0
if accepted > 0 then
  for session, seq in pairs(queued) do
    written[#written + 1] = session
    written[#written + 1] = seq .. string.match(found[places[session]], ' .*')
  end
  redis.call('MSET', unpack(written)) -- which also takes an idle head's expiry away
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
