-- Webhook deliveries.
-- uses: base

local BREAKER_FAILURES = 5                                -- in a row, after which the endpoint is left alone for a while
local PAUSE_MS, MAX_PAUSE_MS = 30 * 1000, 15 * 60 * 1000  -- doubling with each further failure
local MAX_HISTORY = 32                                    -- attempts remembered per delivery

-- How many attempts may be in flight at once; only one for an endpoint that was left alone.
local function at_once(failures, per_endpoint) return failures >= BREAKER_FAILURES and 1 or per_endpoint end

-- Give `member` the time of the first of `queue` in `index`.
local function plan(index, member, queue, not_before)
  local first = redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')[2]
  if not first then return redis.call('ZREM', index, member) end
  redis.call('ZADD', index, math.max(tonumber(first), not_before), member)
end

-- Plan when to look at the endpoint next: when its first delivery is due, it is no longer left alone, and an attempt
-- may be made (each attempt that ends plans again; one that never ends counts as lost when its lease is over). Its
-- origin is looked at when the first of the tenant's endpoints there is, and the tenant when its first origin is.
local function plan_endpoint(tenant, endpoint, per_endpoint)
  local known = redis.call('HMGET', key('endpoint', endpoint), 'failures', 'open_until_ms')
  local at = number(known[2])
  if redis.call('ZCARD', key('sending', endpoint)) >= at_once(number(known[1]), per_endpoint) then
    at = math.max(at, tonumber(redis.call('ZRANGE', key('sending', endpoint), 0, 0, 'WITHSCORES')[2]))
  end
  local origin = string.match(endpoint, '^%x+')
  plan(key('endpoints', tenant, origin), endpoint, key('waiting', endpoint), at)
  plan(key('due', tenant), origin, key('endpoints', tenant, origin), 0)
  plan(key('due', '*'), tenant, key('due', tenant), 0)
end
