-- For scripts that otherwise couldn't tell a request repeated because its reply was lost from a new one.
-- uses: base

local REMEMBERED_MS = 60 * 1000  -- a client repeats a request for a few seconds

-- The answer that the request was given before; false for a new one, and for one without a name.
local function answered(request)
  return (request or '') ~= '' and redis.call('GET', key('request', request))
end

-- Remember the answer. Call it before the write after which a second try would find nothing; a try interrupted
-- earlier is repeated from the start.
local function keep_answer(request, reply)
  if (request or '') ~= '' then redis.call('SET', key('request', request), reply, 'PX', REMEMBERED_MS) end
end
