-- Publishes what was committed: entries out of the mailbox, then counts, then statuses, then the news. Keys: accept.lua.
--
-- Entries first: XDEL works at maxmemory too, and a script that began with it may then write. Counts before statuses: who
-- sees an outcome sees its effect. A worker that stalled after its commit publishes late: counts never go back to its
-- version, and its statuses only replace ones still queued.
--
-- KEYS[1] the mailbox. ARGV: job TTL in seconds, idle head's TTL in seconds, bell's milliseconds, pace, channel,
-- the mark that goes with this (the last entry of the batch; '' while its commands are tried in portions or one by one), 1 to keep
-- the bell though nothing is left,
-- number of entries, entry ids ...,
-- number of sessions, (id, version, last seq, capacity, reserved, waiting, waitlist capacity, state, lift, its seq) ...,
-- number of jobs, (job id, session id, record) ...,
-- number of earlier jobs whose reservation changed, (job id, session id, record) ...
-- Answers how many entries are left.

local prefix = string.sub(KEYS[1], 1, -8)
local at = 8

local function next_argument()
  local value = ARGV[at]
  at = at + 1
  return value
end

local entries = {}
for _ = 1, tonumber(next_argument()) do entries[#entries + 1] = next_argument() end
local removed = #entries > 0 and redis.call('XDEL', KEYS[1], unpack(entries)) or 0
local left = redis.call('XLEN', KEYS[1])

local function put_counts(session, version, seq, capacity, reserved, waiting, places, state, lift, lifted)
  local key = prefix .. 's:' .. session
  local head = redis.call('HMGET', key, 'v', 'q')
  if not head[1] then return nil end
  local queued = tonumber(head[2])
  lift = tonumber(lift)
  if removed > 0 and lift > 0 and tonumber(lifted) <= queued then
    -- Redis numbers from an older state: bring it up by what commands were renumbered, if it was this state that had numbered
    -- them. All that it had numbered by then (up to `u`) carry the same difference, over however many batches: `o` remembers how
    -- much of it is done.
    local raised = redis.call('HMGET', key, 'o', 'u')
    local upto = tonumber(raised[2] or '0')
    local done = tonumber(lifted) <= upto and tonumber(raised[1]) or 0
    if lift > done then
      if done == 0 then upto = queued end
      queued = redis.call('HINCRBY', key, 'q', lift - done)
      redis.call('HSET', key, 'o', lift, 'u', upto)
      redis.call('PERSIST', key) -- a part before, which took nothing out, may have found it idle
    elseif lift < done and queued == upto + done then
      -- One of them was none after all, and nothing was numbered since.
      queued = redis.call('HINCRBY', key, 'q', lift - done)
      redis.call('HSET', key, 'o', lift)
    end
  end
  if tonumber(version) < tonumber(head[1]) then return false end
  redis.call('HSET', key, 'v', version, 'a', seq, 'c', capacity, 'r', reserved, 'w', waiting, 'l', places, 's', state)
  if queued == tonumber(seq) then
    redis.call('EXPIRE', key, ARGV[2])
    if left == 0 then redis.call('HDEL', key, 'o', 'u') end
  end
  return true
end

local current = {}
for _ = 1, tonumber(next_argument()) do
  local session = ARGV[at]
  current[session] = put_counts(session, unpack(ARGV, at + 1, at + 9))
  at = at + 10
end

-- Readers that kept what they saw look again: before anybody is told, and whatever it was, for a redelivery tells of the past.
if redis.call('INCR', prefix .. 'changes') == 1 then
  local time = redis.call('TIME')
  redis.call('SET', prefix .. 'changes', string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2])))
end

local done = {}
for _ = 1, tonumber(next_argument()) do
  local job, session, record = next_argument(), next_argument(), next_argument()
  local key = prefix .. 'job:' .. job
  local replace = current[session]
  if not replace then
    local status = redis.call('GETRANGE', key, 0, 0)
    replace = status == 'q'
  end
  if replace then redis.call('SET', key, record, 'EX', ARGV[1]) end
  done[#done + 1] = job
end
if #done > 0 then redis.call('PUBLISH', ARGV[5], table.concat(done)) end

for _ = 1, tonumber(next_argument()) do
  local job, session, record = next_argument(), next_argument(), next_argument()
  if current[session] then
    redis.call('SET', prefix .. 'job:' .. job, record, 'XX', 'KEEPTTL')
  elseif current[session] == nil then
    -- No head says how new this is: it was idle for us, between two parts of a publication, until it expired. The ledger knows.
    redis.call('DEL', prefix .. 'job:' .. job)
  end
end

-- Whoever publishes late must not take away the mark of the batch that another worker has in hand by now.
local trial = prefix .. 'trial'
if ARGV[6] == '' then
  redis.call('HDEL', trial, 'name', 'deaths')
else
  local mark = redis.call('HGET', trial, 'until')
  if not mark or mark == ARGV[6] then redis.call('DEL', trial) end
end
if left == 0 and ARGV[7] == '0' then redis.call('DEL', prefix .. 'bell') end
-- What tells of workers that live, not of data, goes into no log.
redis.set_repl(redis.REPL_NONE)
if ARGV[4] ~= '0' then redis.call('SET', prefix .. 'pace', ARGV[4], 'EX', 60) end
if left > 0 or ARGV[7] ~= '0' then
  redis.call('SET', prefix .. 'bell', '1', 'PX', ARGV[3])
end
return left
