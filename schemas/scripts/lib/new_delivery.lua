-- Making a webhook delivery.
-- uses: deliveries
local MAX_FORGOTTEN = 100  -- deliveries whose retention has ended, dropped for each new one

-- Make a delivery of these fields, once; from now on it is tried until it ends. Returns whether there was one.
local function make_delivery(id, endpoint, retention_ms, per_endpoint, fields)
  local now, delivery = now_ms(), key('delivery', id)
  local known = redis.call('EXISTS', delivery) == 1
  if not known then
    local disabled = redis.call('HGET', key('endpoint', endpoint), 'disabled_ms')
    local ended = redis.call('ZRANGEBYSCORE', key('deliveries'), '-inf', now - retention_ms, 'LIMIT', 0, MAX_FORGOTTEN)
    if ended[1] then redis.call('ZREM', key('deliveries'), unpack(ended)) end
    redis.call('ZADD', key('deliveries'), now, id)
    if disabled then
      redis.call('PEXPIRE', key('endpoint', endpoint), retention_ms)  -- as long as its deliveries can be replayed
    else
      redis.call('ZADD', key('waiting', endpoint), now, id)
      plan_endpoint(to_fields(fields).tenant, endpoint, per_endpoint)
    end
    redis.call('HSET', delivery, 'endpoint', endpoint, 'created_ms', now, 'retention_ms', retention_ms, 'attempts', 0,
      'state', disabled and 'disabled' or 'pending', unpack(fields))
  end
  redis.call('PEXPIRE', delivery, retention_ms)
  return known
end
