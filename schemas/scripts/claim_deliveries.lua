-- Take deliveries that are due, for one attempt each. Whoever takes one and falls silent loses it after `lease_ms`.
-- An origin gets attempts while it has no more under way than there are free (`limit`, less what is taken): one that
-- hangs has half of them at most, and several come to equal shares, with a share left for the next that comes.
local limit, lease_ms, nonce, per_endpoint = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local under_way = {}
for i = 5, #ARGV, 2 do under_way[ARGV[i]] = tonumber(ARGV[i + 1]) end
local FIELDS = {'url', 'tenant', 'body', 'secret', 'attempts'}

allow_when_full()
local now, taken, expired = now_ms(), {}, {}

local function give_up_on(endpoint)
  for _, id in ipairs(redis.call('ZRANGE', key('waiting', endpoint), 0, limit - 1)) do
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
  if tonumber(known[2] or 0) > now then return end
  local free = at_once(tonumber(known[1] or 0), per_endpoint) - redis.call('ZCARD', sending)
  local count = math.max(0, math.min(free, most))
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', waiting, '-inf', now, 'LIMIT', 0, count)) do
    local delivery = key('delivery', id)
    if redis.call('EXISTS', delivery) == 0 then  -- its retention has ended
      redis.call('ZREM', waiting, id)
      expired[#expired + 1] = id
    else
      local fence = redis.call('HINCRBY', delivery, 'epoch', 1) .. '.' .. nonce
      redis.call('HSET', delivery, 'fence', fence)
      redis.call('ZADD', waiting, now + lease_ms, id)
      redis.call('ZADD', sending, now + lease_ms, id)
      redis.call('PEXPIRE', sending, 2 * lease_ms)
      local found = {id, fence}
      for _, value in ipairs(redis.call('HMGET', delivery, unpack(FIELDS))) do found[#found + 1] = value or '' end
      taken[#taken + 1] = found
    end
  end
end

local function take_from_origin(origin)
  local left = limit - #taken
  local full = #taken + math.ceil((left - (under_way[origin] or 0)) / 2)
  if #taken >= full then return end
  local endpoints = key('endpoints', origin)
  for _, endpoint in ipairs(redis.call('ZRANGEBYSCORE', endpoints, '-inf', now, 'LIMIT', 0, full - #taken)) do
    take_from(endpoint, full - #taken)
    plan_endpoint(endpoint, per_endpoint)
    if #taken >= full then break end
  end
  plan(key('due'), origin, endpoints, 0)  -- also where none was found: its keys may have been lost
end

-- Those that may take no more stay at the head, and must not hide the others.
local looked_at = limit + math.floor((#ARGV - 4) / 2)
for _, origin in ipairs(redis.call('ZRANGEBYSCORE', key('due'), '-inf', now, 'LIMIT', 0, looked_at)) do
  if #taken >= limit then break end
  take_from_origin(origin)
end
return {taken, expired}
