-- Posts the bodies of a folder one after the other; its last line is JSON.
-- wrk … -s post.lua URL -- FOLDER [MILLISECONDS]
-- Each connection asks again as soon as it is answered, or after a pause that is exponential with
-- that mean: arrivals at random.

local requests, place, pause = {}, 0, 0

local function content(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

function init(args)
  local folder = args[1]
  pause = tonumber(args[2] or "0")
  for line in io.lines(folder .. "/index") do
    local name, header = line:match("(%S+) (%S+)")
    local headers = { ["Content-Type"] = "application/json" }
    if header ~= "0" then
      headers["Content-Type"] = "application/octet-stream"
      headers["Inference-Header-Content-Length"] = header
    end
    requests[#requests + 1] = wrk.format("POST", nil, headers, content(folder .. "/" .. name))
  end
  if pause > 0 then
    delay = function() return math.floor(-math.log(1 - math.random()) * pause + 0.5) end
  end
end

function request()
  place = place % #requests + 1
  return requests[place]
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %.6f, "mean": %.3f, "p50": %.3f, "p99": %.3f, "failed": %d}\n',
    summary.requests, summary.duration / 1e6, latency.mean / 1e3, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, e.status + e.connect + e.read + e.write + e.timeout))
end
