-- Record the outcome of an attempt, for the delivery and for its endpoint.
-- args: id fence state delay_ms:number attempt gone:flag retention_ms per_endpoint:number
-- uses: deliveries

allow_when_full()
local delivery = key('delivery', id)
local known = redis.call('HMGET', delivery, 'fence', 'endpoint', 'history', 'tenant')
if known[1] ~= fence then return 'fenced' end
local endpoint, now = known[2], now_ms()
if not string.match(endpoint or '', '^%x+%.%x+$') then  -- damaged from outside: it can't be sent again
  redis.call('DEL', delivery)
  return 'fenced'
end

local fine, history = pcall(cjson.decode, known[3] or '[]')
if not fine or type(history) ~= 'table' then history = {} end  -- damaged from outside
history[#history + 1] = cjson.decode(attempt)
history[#history].at_ms = now
while #history > MAX_HISTORY do table.remove(history, 1) end
redis.call('ZREM', key('sending', endpoint), id)
if state == 'pending' then
  redis.call('ZADD', key('waiting', endpoint), now + delay_ms, id)
else
  redis.call('ZREM', key('waiting', endpoint), id)
end

local record = key('endpoint', endpoint)
if gone then
  redis.call('HSET', record, 'disabled_ms', now)
elseif state == 'delivered' then
  redis.call('HDEL', record, 'failures', 'open_until_ms')
elseif state ~= 'refused' then  -- which says nothing about the receiver
  local failures = number(redis.call('HGET', record, 'failures')) + 1
  redis.call('HSET', record, 'failures', failures)
  if failures >= BREAKER_FAILURES then
    local pause_ms = math.min(MAX_PAUSE_MS, PAUSE_MS * 2 ^ math.min(16, failures - BREAKER_FAILURES))
    redis.call('HSET', record, 'open_until_ms', now + pause_ms)
  end
end
redis.call('PEXPIRE', record, retention_ms)
plan_endpoint(known[4] or '', endpoint, per_endpoint)
-- Last, because as long as the fence is there, an interrupted settlement can be completed.
local attempts = (tonumber(redis.call('HGET', delivery, 'attempts') or 0) or 0) + 1
redis.call('HSET', delivery, 'state', state, 'history', cjson.encode(history), 'attempts', attempts, 'fence', '')
return 'ok'
