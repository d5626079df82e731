-- Make a delivery of an outbox entry. From now on it is tried until it ends, even if the job's record is gone.
-- The entry is deleted with it, unless more follows from it (`keep_entry`); its delivery is made once in any case.
-- args: entry id endpoint retention_ms per_endpoint:number keep_entry:flag fields...
-- uses: outbox deliveries
local MAX_FORGOTTEN = 100  -- deliveries whose retention has ended, dropped for each new one

if #redis.call('XRANGE', key('outbox'), entry, entry) == 0 then return 'already' end
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
    plan_endpoint(to_fields({unpack(ARGV, fields_from)}).tenant, endpoint, per_endpoint)
  end
  redis.call('HSET', delivery, 'endpoint', endpoint, 'created_ms', now, 'retention_ms', retention_ms, 'attempts', 0,
    'state', disabled and 'disabled' or 'pending', unpack(ARGV, fields_from))
end
redis.call('PEXPIRE', delivery, retention_ms)
if not keep_entry then drop_entry(entry) end
return known and 'already' or 'ok'
