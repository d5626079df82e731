-- For scripts that can't tell a request that is sent again, because its reply was lost, from a new one.
-- uses: base

local REMEMBERED_MS = 60 * 1000  -- a client asks again for a few seconds

-- What was answered to the request before; false for a new one, and for one without a name.
local function answered(request)
  return (request or '') ~= '' and redis.call('GET', key('request', request))
end

-- Remember the answer. This comes in front of what makes a second try find nothing; a try that was interrupted before
-- it is made again from the start.
local function keep_answer(request, reply)
  if (request or '') ~= '' then redis.call('SET', key('request', request), reply, 'PX', REMEMBERED_MS) end
end
