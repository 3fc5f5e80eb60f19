-- For wrk: sends the requests of a file round robin and counts failed responses.
-- Arguments: GET or POST, the file (each request is a line with its length, then a GET target or a
-- body), text that successful responses contain.

local requests, at, threads = {}, 0, {}
failed = 0 -- global: read from another Lua state at the end

function setup(thread)
   table.insert(threads, thread)
end

function init(args)
   local method, file = args[1], args[2]
   marker = args[3] or ""
   local bodies = assert(io.open(file, "rb"))
   local length = bodies:read("*n")
   while length do
      bodies:read(1)
      local body = bodies:read(length)
      if method == "GET" then
         table.insert(requests, wrk.format("GET", body))
      else
         table.insert(requests, wrk.format("POST", nil, nil, body))
      end
      length = bodies:read("*n")
   end
   bodies:close()
end

function request()
   at = at % #requests + 1
   return requests[at]
end

function response(status, headers, body)
   if status ~= 200 or (marker ~= "" and not string.find(body, marker, 1, true)) then
      failed = failed + 1
   end
end

function done(summary, latency, requests)
   local failures = 0
   for _, thread in ipairs(threads) do
      failures = failures + thread:get("failed")
   end
   local errors = summary.errors
   failures = failures + errors.connect + errors.read + errors.write + errors.timeout
   io.write(string.format("bench %d %d %.6f %.3f %.3f\n", summary.requests, failures,
      summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
