-- Take a batch that no runner has: it is new, or its runner has been silent for a whole lease.
-- args: holder lease_ms:number
-- uses: base
local active = key('active')
local name = redis.call('ZRANGEBYSCORE', active, '-inf', now_ms(), 'LIMIT', 0, 1)[1]
if not name then return false end
local record = key('batch', name)
if redis.call('EXISTS', record) == 0 then  -- its retention has ended
  redis.call('ZREM', active, name)
  return false
end
redis.call('HSET', record, 'holder', holder)
redis.call('ZADD', active, now_ms() + lease_ms, name)
return name
