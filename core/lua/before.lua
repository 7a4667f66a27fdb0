-- In front of the scripts that may meet what the release before left: a session's head was a hash of the same fields (accept.lua).
-- It is written as it is now, and answered; false if there is none.

local function head_of_before(key)
  if redis.call('TYPE', key)['ok'] ~= 'hash' then return false end
  local fields = redis.call('HMGET', key, 'q', 'f', 'o', 'u', 'v', 'a', 'c', 'r', 'w', 'l', 's')
  for i = 1, 10 do fields[i] = fields[i] or '0' end
  local head = table.concat(fields, ' ', 1, 10) .. ' ' .. (fields[11] or 'open')
  redis.call('SET', key, head, 'KEEPTTL')
  return head
end

