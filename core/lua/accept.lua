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

local prefix = string.sub(KEYS[1], 1, -8)
local jobs = prefix .. 'job:'
local sessions = prefix .. 's:'
local limit = tonumber(ARGV[1])
local depth = redis.call('XLEN', KEYS[1])
local shut = redis.call('GET', prefix .. 'lanes') == 'shut'
local heads = {}
local shown = {}
local answers = {}
local records = {} -- of what is accepted: key, record, key, record ...
local accepted = 0
local now
local doubt

-- A job that was done when Postgres went back: it expires before the doubt does. Only the ledger knows whether it is still so.
local function is_doubted(key, known)
  if string.byte(known) ~= 100 then return false end -- 'd'
  doubt = doubt or redis.call('PTTL', prefix .. 'doubt')
  return doubt > 0 and redis.call('PTTL', key) <= doubt
end

local function now_ms()
  if not now then
    local time = redis.call('TIME')
    now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  end
  return now
end

local function head_of(session, is_shown)
  local head = heads[session]
  if head == nil or is_shown and head and not head.is_shown then
    local key, found = sessions .. session, nil
    if is_shown then
      found = redis.call('HMGET', key, 'q', 'f', 'a', 'c', 'r', 'w', 'l', 's')
    else
      found = redis.call('HMGET', key, 'q', 'f')
    end
    head = found[1] and (head or { q = tonumber(found[1]), accepted = 0, forgot = found[2] }) or false
    heads[session] = head
    if head and is_shown then
      head.is_shown = true
      shown[#shown + 1] = { session, unpack(found, 3, 8) }
    end
  end
  return head
end

-- One look for all of them; what this call accepts is put beside, for the same job may be twice in a group.
local keys = {}
for i = 7, #ARGV, 4 do keys[#keys + 1] = jobs .. ARGV[i] end
local found = redis.call('MGET', unpack(keys))
local mine = {}

local function accept(number, session, record, command)
  local key = keys[number]
  local known = mine[key] or found[number]
  local digit = string.byte(ARGV[6], number) - 48 -- '0'
  local head = head_of(session, digit >= 2)
  if known and not is_doubted(key, known) then return 'K', known end
  if shut then return 'S', '' end
  if (known or head and head.forgot and tonumber(head.forgot) > now_ms()) and digit % 2 == 1 then return 'L', '' end
  if depth >= limit then return 'F', '' end
  if not head then return 'H', '' end
  local seq = head.q + 1
  -- The first write of all: where the server refuses it (out of memory), nothing has half happened.
  local id = redis.pcall('XADD', KEYS[1], '*', 's', seq, 'c', command)
  if type(id) == 'table' then return 'E', id['err'] end
  local at = tonumber(string.match(id, '^%d+'))
  record = record .. cmsgpack.pack(seq, at)
  mine[key] = record
  records[2 * accepted + 1], records[2 * accepted + 2] = key, record
  head.q = seq
  head.accepted = head.accepted + 1
  depth = depth + 1
  accepted = accepted + 1
  return seq, at
end

for number = 1, #keys do
  local i = 4 * number + 4
  answers[2 * number - 1], answers[2 * number] = accept(number, ARGV[i], ARGV[i + 1], ARGV[i + 2])
end

local rung = 0
local total, bell = prefix .. 'total:' .. ARGV[3], prefix .. 'bell'
local others = redis.call('MGET', total, prefix .. 'pace', bell)
local before = tonumber(others[1] or '0')
local grown = 0
if accepted > 0 then
  redis.call('MSET', unpack(records))
  for session, head in pairs(heads) do
    if head and head.accepted > 0 then
      redis.call('HSET', sessions .. session, 'q', head.q)
      redis.call('PERSIST', sessions .. session)
    end
  end
  -- Where it was told of more, data was lost: the total stays until a reply has reached it that says so.
  if before >= tonumber(ARGV[5]) then
    grown = accepted
    redis.call('SET', total, before + grown, 'EX', ARGV[4])
  end
  if not others[3] then
    redis.call('SET', bell, '1', 'PX', ARGV[2])
    rung = 1
  end
end
return { depth, others[2] or '0', rung, answers, shown, before, grown }
