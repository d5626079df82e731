-- Take deliveries that are due, for one attempt each. A sender that takes one and falls silent loses it after
-- `lease_ms`. Attempts are shared out by tenant, then by origin, so that receivers that hang leave some for the
-- others. A tenant gets one more while it has at most three times as many in flight as are free (`limit`, less those
-- taken); within a tenant, an origin while it has at most twice as many; over all tenants, an origin while it has at
-- most as many. So a tenant gets at most three quarters, an origin half, and several converge on equal shares, with
-- room for the next one.
-- args: limit:number lease_ms:number nonce per_endpoint:number pair_count:number under_way...
-- uses: deliveries
local tenants, at_origins, origins = {}, {}, {}  -- the sender's attempts in flight
local first_origin = under_way_from + 3 * pair_count
for i = under_way_from, first_origin - 1, 3 do
  local tenant, attempts = ARGV[i], tonumber(ARGV[i + 2])
  tenants[tenant] = (tenants[tenant] or 0) + attempts
  at_origins[tenant .. ' ' .. ARGV[i + 1]] = attempts
end
for i = first_origin, #ARGV, 2 do origins[ARGV[i]] = tonumber(ARGV[i + 1]) end

local LOOKS = 1024         -- at tenants, origins and endpoints in one claim, even if nothing is taken
local ORIGINS_A_TURN = 64  -- of one tenant
local TENANTS_READ = 64    -- at once: a claim of few attempts needs few
local ADOPTED = 8          -- origins, and endpoints of each, taken over from an older version at once
local MOST_BYTES = 2 ^ 24  -- of bodies in one claim
local FIELDS = {'url', 'tenant', 'body', 'secret', 'attempts'}

allow_when_full()
local now, looks, bytes, taken, expired = now_ms(), LOOKS, 0, {}, {}

local function give_up_on(endpoint)
  for _, id in ipairs(redis.call('ZRANGE', key('waiting', endpoint), 0, limit - 1)) do
    looks = looks - 1
    redis.call('ZREM', key('waiting', endpoint), id)
    if redis.call('EXISTS', key('delivery', id)) == 1 then
      redis.call('HSET', key('delivery', id), 'state', 'disabled')
    end
  end
end

local function take_from(endpoint, most)
  local waiting, sending = key('waiting', endpoint), key('sending', endpoint)
  local known = redis.call('HMGET', key('endpoint', endpoint), 'failures', 'open_until_ms', 'disabled_ms')
  redis.call('ZREMRANGEBYSCORE', sending, '-inf', now)
  if known[3] then return give_up_on(endpoint) end
  if (believed(known[2], now + MAX_PAUSE_MS) or 0) > now then return end
  local free = at_once(number(known[1]), per_endpoint) - redis.call('ZCARD', sending)
  local count = math.max(0, math.min(free, most))
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', waiting, '-inf', now, 'LIMIT', 0, count)) do
    local delivery = key('delivery', id)
    if redis.call('TYPE', delivery).ok ~= 'hash' then  -- its retention has ended
      redis.call('ZREM', waiting, id)
      expired[#expired + 1] = id
    else
      local epoch = attempt('HINCRBY', delivery, 'epoch', 1)
      if not epoch then  -- damaged from outside: the others are taken all the same
        redis.call('HSET', delivery, 'epoch', 1)
        epoch = 1
      end
      local fence = epoch .. '.' .. nonce
      redis.call('HSET', delivery, 'fence', fence)
      redis.call('ZADD', waiting, now + lease_ms, id)
      redis.call('ZADD', sending, now + lease_ms, id)
      redis.call('PEXPIRE', sending, 2 * lease_ms)
      local found = {id, fence}
      for _, value in ipairs(redis.call('HMGET', delivery, unpack(FIELDS))) do found[#found + 1] = value or '' end
      taken[#taken + 1] = found
      bytes = bytes + redis.call('HSTRLEN', delivery, 'body')
      if bytes >= MOST_BYTES then
        looks = 0
        return
      end
    end
  end
end

-- How many may be taken in all for a tenant or origin that has `attempts` in flight and may have `times` as many as
-- are left of `most`.
local function share(most, times, attempts)
  return #taken + math.ceil((times * (most - #taken) - (attempts or 0)) / (times + 1))
end

local function take_from_origin(tenant, origin, most)
  looks = looks - 1
  local endpoints, before = key('endpoints', tenant, origin), #taken
  local full = math.min(share(most, 2, at_origins[tenant .. ' ' .. origin]), share(limit, 1, origins[origin]))
  if #taken < full then
    for _, endpoint in ipairs(redis.call('ZRANGEBYSCORE', endpoints, '-inf', now, 'LIMIT', 0, full - #taken)) do
      looks = looks - 1
      take_from(endpoint, full - #taken)
      plan_endpoint(tenant, endpoint, per_endpoint)
      if #taken >= full or looks <= 0 then break end
    end
  end
  origins[origin] = (origins[origin] or 0) + #taken - before
  plan(key('due', tenant), origin, endpoints, now)  -- even if none was found: its keys may have been lost
end

-- After its turn, a member goes behind all that are due by now, so that one at its limit never hides the others.
local function take_from_tenant(tenant)
  looks = looks - 1
  local full = share(limit, 3, tenants[tenant])
  if #taken < full then
    local due_origins = redis.call('ZRANGEBYSCORE', key('due', tenant), '-inf', now, 'LIMIT', 0, ORIGINS_A_TURN)
    for _, origin in ipairs(due_origins) do
      if #taken >= full or looks <= 0 then break end
      take_from_origin(tenant, origin, full)
    end
  end
  plan(key('due', '*'), tenant, key('due', tenant), now)
end

-- Older versions kept one order of origins for all tenants; plan here what they still plan there. True when nothing
-- is left to take over.
local function adopt(endpoint)
  local id = redis.call('ZRANGE', key('waiting', endpoint), 0, 0)[1]
  if not id then return true end
  local tenant = redis.call('HGET', key('delivery', id), 'tenant')
  if tenant then
    plan_endpoint(tenant, endpoint, per_endpoint)
    return true
  end
  redis.call('ZREM', key('waiting', endpoint), id)  -- its retention has ended
  expired[#expired + 1] = id
end

for _, origin in ipairs(redis.call('ZRANGE', key('due'), 0, ADOPTED - 1)) do
  local endpoints = key('endpoints', origin)
  for _, endpoint in ipairs(redis.call('ZRANGE', endpoints, 0, ADOPTED - 1)) do
    if adopt(endpoint) then redis.call('ZREM', endpoints, endpoint) end
  end
  plan(key('due'), origin, endpoints, 0)
end

-- Those behind the first few move to the front as these have their turns.
local had_turn, more = {}, true
while more do
  more = false
  for _, tenant in ipairs(redis.call('ZRANGEBYSCORE', key('due', '*'), '-inf', now, 'LIMIT', 0, TENANTS_READ)) do
    if #taken >= limit or looks <= 0 then break end
    if not had_turn[tenant] then
      had_turn[tenant], more = true, true
      take_from_tenant(tenant)
    end
  end
end
return {taken, expired}
