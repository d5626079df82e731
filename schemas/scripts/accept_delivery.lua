-- An outbox entry becomes a delivery: from now on it is tried until it ends, whatever becomes of the job's record.
local entry, id, endpoint, retention_ms, per_endpoint = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])

if #redis.call('XRANGE', key('outbox'), entry, entry) == 0 then return 'already' end
local now, delivery = now_ms(), key('delivery', id)
local disabled = redis.call('HGET', key('endpoint', endpoint), 'disabled_ms')
redis.call('HSET', delivery, 'endpoint', endpoint, 'created_ms', now, 'attempts', 0,
  'state', disabled and 'disabled' or 'pending', unpack(ARGV, 6))
redis.call('PEXPIRE', delivery, retention_ms)
redis.call('ZREMRANGEBYSCORE', key('deliveries'), '-inf', now - retention_ms)
redis.call('ZADD', key('deliveries'), now, id)
if not disabled then
  redis.call('ZADD', key('waiting', endpoint), now, id)
  plan_endpoint(endpoint, per_endpoint)
end
redis.call('XACK', key('outbox'), 'relay', entry)
redis.call('XDEL', key('outbox'), entry)
return 'ok'
