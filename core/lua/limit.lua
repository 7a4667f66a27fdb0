-- Counts a group of requests against rate limits (GCRA): all that came meanwhile in one call. Keys: at the head of accept.lua.
--
-- A bucket holds one number, the moment (microseconds) at which it will be full again; a request puts that off by its cost. So a
-- bucket needs no clean-up, and time is the server's alone.
--
-- KEYS: the buckets, each once. ARGV[1], in msgpack, one list of numbers: how many units the largest request may ask for; for each
-- bucket the microseconds in which one unit comes back and the units it holds; then of requests that are alike: how many they are,
-- units each asks for, units each has paid before, the places in KEYS of their first and of their second bucket (0: none), and how
-- many units more the process would take ahead, for requests to come; it gets them as long as its buckets stay half full.
-- A request passes if all its buckets have what it asks for, or are full and it asks for more than they hold: then it pays the
-- whole price later, for nobody passes until it is paid. One that does not pass costs nothing. Who has paid more than it asks for
-- gets it back. Answers for those that are alike: how many pass, how many microseconds each of their buckets then is from full, and
-- how many units were taken ahead.

-- Buckets are not worth a write to the log, nor the fsync that every accepted command waits for: a restart forgets them.
redis.set_repl(redis.REPL_NONE)

local IDLE_MS = 60000
local given = cmsgpack.unpack(ARGV[1])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local most = given[1]
local found = redis.call('MGET', unpack(KEYS))
local buckets = {}
local at = 2

for i = 1, #KEYS do
  local unit, size = given[at], given[at + 1]
  local ahead = math.max(0, (tonumber(found[i]) or 0) - now)
  -- A clock that was put back must not keep anybody out.
  buckets[i] = { unit = unit, size = size, ahead = math.min(ahead, unit * math.max(size, most)), touched = false }
  at = at + 2
end

local function has(bucket, asked, paid)
  return not bucket or bucket.ahead + (math.min(asked, bucket.size) - paid) * bucket.unit <= bucket.size * bucket.unit
end

local function pay(bucket, cost)
  if bucket then
    bucket.ahead = math.max(0, bucket.ahead + cost * bucket.unit)
    bucket.touched = true
  end
end

local function spare(bucket)
  return bucket and math.floor(bucket.size / 2 - bucket.ahead / bucket.unit) or math.huge
end

local answers = {}
for i = at, #given, 6 do
  local alike, asked, paid = given[i], given[i + 1], given[i + 2]
  local first, second = buckets[given[i + 3]], buckets[given[i + 4]]
  local passed = 0
  while passed < alike and (asked < paid or (has(first, asked, paid) and has(second, asked, paid))) do
    pay(first, asked - paid)
    pay(second, asked - paid)
    passed = passed + 1
  end
  answers[#answers + 1] = passed
  answers[#answers + 1] = first and math.ceil(first.ahead) or 0
  answers[#answers + 1] = second and math.ceil(second.ahead) or 0
  local taken = math.max(0, math.min(given[i + 5], spare(first), spare(second)))
  if taken > 0 then
    pay(first, taken)
    pay(second, taken)
  end
  answers[#answers + 1] = taken
end

for i, bucket in ipairs(buckets) do
  if bucket.touched then
    -- Kept longer than needed, so that a bucket in use does not come and go: its expiry is written to the log.
    redis.call('SET', KEYS[i], string.format('%.0f', now + bucket.ahead), 'PX', math.ceil(bucket.ahead / 1000) + IDLE_MS)
  end
end
return answers
