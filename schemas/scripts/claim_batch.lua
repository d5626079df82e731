-- Take the oldest batch that no runner has: it is new, or its runner has been silent for a whole lease. None of the
-- tenants that are named to be skipped, unless it is further down than is looked.
-- args: holder lease_ms:number skipped...
-- uses: base
local LOOKED = 5000
local active, skipped = key('active'), {}
for i = skipped_from, #ARGV do skipped[ARGV[i]] = true end
local most = ARGV[skipped_from] and LOOKED or 1
for _, name in ipairs(redis.call('ZRANGEBYSCORE', active, '-inf', now_ms(), 'LIMIT', 0, most)) do
  if not skipped[string.match(name, '^(.*):')] then
    local record = key('batch', name)
    if redis.call('EXISTS', record) == 0 then  -- its retention has ended
      redis.call('ZREM', active, name)
      return false
    end
    redis.call('HSET', record, 'holder', holder)
    redis.call('ZADD', active, now_ms() + lease_ms, name)
    return name
  end
end
return false
