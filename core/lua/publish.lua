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
-- number of sessions, (key of its head, the head from its version on, lift, its seq, number of its jobs) ...,
-- number of jobs, their ids in one string, (key, record) ..., 'EX' and the job TTL: in the sessions' order, and last those of none of
-- these sessions,
-- number of earlier jobs whose reservation changed, (key, key of its session's head, record) ...
-- Answers how many entries are left.

local prefix = string.sub(KEYS[1], 1, -8)
local sets_many = (redis.VALKEY_VERSION_NUM or 0) >= 0x090100 or redis.REDIS_VERSION_NUM >= 0x080400

-- Key, value, key, value ...: in one call where the server knows how.
local function set_for(seconds, values, sets_many)
  local number = #values / 2
  if number > 0 and sets_many then
    values[#values + 1] = 'EX'
    values[#values + 1] = seconds
    redis.call('MSETEX', number, unpack(values))
  else
    for i = 1, 2 * number, 2 do redis.call('SET', values[i], values[i + 1], 'EX', seconds) end
  end
end

local function numbers_in(text)
  local found = {}
  for number in string.gmatch(text, '%d+') do found[#found + 1] = tonumber(number) end
  return found
end

-- Redis numbers from an older state: bring it up by what commands were renumbered, if it was this state that had numbered them. All
-- that it had numbered by then carry the same difference, over however many batches: `u` remembers up to which number, `o` how much of
-- it is done. Who raises it for these raises it for all that was numbered since, which has an end and a share of its own.
-- Answers q, f, o and u, and by how much q was moved.
local function lifted(queued, between, lift, from)
  local looked, raised, upto = string.match(between, '(%d+) (%S+) (%S+)')
  local done, ends = numbers_in(raised), numbers_in(upto)
  if upto == '0' then done, ends = {}, {} end
  local at = 1
  while ends[at] and from > ends[at] do at = at + 1 end
  local more = lift - (ends[at] and done[at] or 0)
  local is_last = #ends > 0 and queued == ends[#ends] + done[#ends] -- nothing was numbered since
  -- Less only where one of them was none after all, and nobody was told a number that would come again.
  if more == 0 or more < 0 and not (is_last and at == #ends) then return queued, between, 0 end
  if more > 0 and not (is_last and at <= #ends) then
    ends[#ends + 1] = queued
    done[#ends] = 0
  end
  for i = at, #ends do done[i] = done[i] + more end
  return queued + more, looked .. ' ' .. table.concat(done, ',') .. ' ' .. table.concat(ends, ','), more
end

local entries = tonumber(ARGV[8])
local removed = entries > 0 and redis.call('XDEL', KEYS[1], unpack(ARGV, 9, 8 + entries)) or 0
local left = redis.call('XLEN', KEYS[1])

local first = 10 + entries
local sessions = tonumber(ARGV[first - 1])
local at = first + 5 * sessions
local keys = {}
for i = first, at - 1, 5 do keys[#keys + 1] = ARGV[i] end
local heads = sessions > 0 and redis.call('MGET', unpack(keys))
local current = {} -- by session: whether this is the newest; nil where there is no head
local lasting, idle = {}, {} -- heads, by whether they will expire
local told = 0 -- jobs of sessions of which this is the newest

for number, key in ipairs(keys) do
  local i = first + 5 * (number - 1)
  local head, tail, lift = heads[number] or head_of_before(key), ARGV[i + 1], tonumber(ARGV[i + 2])
  if head then
    local known, between, version = string.match(head, '^(%d+) (%d+ %S+ %S+) (%d+)')
    local queued, moved = tonumber(known), 0
    local behind = string.sub(head, #known + #between + 3)
    if removed > 0 and lift > 0 and tonumber(ARGV[i + 3]) <= queued then
      queued, between, moved = lifted(queued, between, lift, tonumber(ARGV[i + 3]))
    end
    local newer, seq = string.match(tail, '^(%d+) (%d+)')
    local is_current = tonumber(newer) >= tonumber(version)
    current[key] = is_current
    if is_current then told = told + tonumber(ARGV[i + 4]) end
    seq = is_current and tonumber(seq)
    if is_current then behind = tail end
    if queued == seq and left == 0 then between = string.match(between, '^%d+') .. ' 0 0' end
    local written = (moved == 0 and known or queued) .. ' ' .. between .. ' ' .. behind
    if queued == seq then
      idle[#idle + 1] = key
      idle[#idle + 1] = written
    elseif moved > 0 or seq and queued > seq then -- moved: a part before, which took nothing out, may have found it idle
      lasting[#lasting + 1] = key
      lasting[#lasting + 1] = written
    elseif moved < 0 or seq then
      redis.call('SET', key, written, 'KEEPTTL')
    end
  end
end
if #lasting > 0 then redis.call('MSET', unpack(lasting)) end
set_for(ARGV[2], idle, sets_many)

-- Readers that kept what they saw look again: before anybody is told, and whatever it was, for a redelivery tells of the past.
if redis.call('INCR', prefix .. 'changes') == 1 then
  local time = redis.call('TIME')
  redis.call('SET', prefix .. 'changes', string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2])))
end

local jobs, record = tonumber(ARGV[at]), at + 2
local behind = record + 2 * jobs
if sets_many and told == jobs and jobs > 0 then -- nearly always
  redis.call('MSETEX', jobs, unpack(ARGV, record, behind + 1))
else
  local done, number = {}, 0
  for i = first, at, 5 do -- behind the sessions come those of none
    local replace = i < at and current[ARGV[i]]
    local upto = i < at and record + 2 * tonumber(ARGV[i + 4]) or behind
    while record < upto do
      if replace or redis.call('GETRANGE', ARGV[record], 0, 0) == 'q' then
        done[number + 1], done[number + 2] = ARGV[record], ARGV[record + 1]
        number = number + 2
      end
      record = record + 2
    end
  end
  set_for(ARGV[1], done, sets_many)
end
if jobs > 0 then redis.call('PUBLISH', ARGV[5], ARGV[at + 1]) end

at = behind + 2
for i = at + 1, at + 3 * tonumber(ARGV[at]), 3 do
  local session = ARGV[i + 1]
  if current[session] then
    redis.call('SET', ARGV[i], ARGV[i + 2], 'XX', 'KEEPTTL')
  elseif current[session] == nil then
    -- No head says how new this is: it was idle for us, between two parts of a publication, until it expired. The ledger knows.
    redis.call('DEL', ARGV[i])
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
