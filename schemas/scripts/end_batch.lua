-- Record the end of a batch, with the webhook about it; only the holder of its lease may. The webhook is made first, so
-- that a try that was interrupted is repeated.
-- args: name holder lease_ms:number retention_ms:number delivery endpoint delivery_ms per_endpoint:number
--   delivery_count:number fields...
-- uses: new_delivery
local record = key('batch', name)
if redis.call('HGET', record, 'holder') ~= holder then return 'lost' end
local own_from = fields_from + 2 * delivery_count
make_delivery(delivery, endpoint, delivery_ms, per_endpoint, {unpack(ARGV, fields_from, own_from - 1)})
redis.call('HSET', record, unpack(ARGV, own_from))
redis.call('PEXPIRE', record, retention_ms)
redis.call('PEXPIRE', key('parts', name), retention_ms)
redis.call('ZADD', key('active'), now_ms() + lease_ms, name)
return 'ok'
