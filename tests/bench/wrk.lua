-- Requests from a template, as tests/bench/workload.py makes them. Arguments: the template's file, the order's file.

local parts, order, at, number = {}, {}, 1, 0

function init(args)
  local file = io.open(args[1], 'rb')
  local template = file:read('*a')
  file:close()
  for text, mark in template:gmatch('([^\1\2\3]*)([\1\2\3]?)') do
    parts[#parts + 1] = text
    if mark ~= '' then parts[#parts + 1] = mark end
  end
  for line in io.lines(args[2]) do order[#order + 1] = line end
end

function request()
  local filled = {}
  for i = 1, #parts do
    local part = parts[i]
    if part == '\1' then
      filled[i] = order[at]
      at = at % #order + 1
    elseif part == '\2' then
      number = number + 1
      filled[i] = string.format('%09d', number)
    elseif part == '\3' then
      filled[i] = string.format('%09d', number)
    else
      filled[i] = part
    end
  end
  return table.concat(filled)
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\n{"answered": %d, "refused": %d, "broken": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f}\n',
    summary.requests, e.status, e.connect + e.read + e.write + e.timeout, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3
  ))
end
