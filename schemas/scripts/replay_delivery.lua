-- Send a delivery again from the start of its schedule, on request; its endpoint is assumed to be reachable again.
-- args: id per_endpoint:number request
-- uses: deliveries once
local before = answered(request)
if before then return before end
local known = redis.call('HMGET', key('delivery', id), 'endpoint', 'retention_ms', 'tenant')
local endpoint, now = known[1], now_ms()
if not endpoint then return 'missing' end
redis.call('DEL', key('endpoint', endpoint))
redis.call('HSET', key('delivery', id), 'state', 'pending', 'attempts', 0)
redis.call('PEXPIRE', key('delivery', id), known[2])  -- the schedule takes days
redis.call('ZADD', key('deliveries'), now, id)
redis.call('ZADD', key('waiting', endpoint), now, id)
plan_endpoint(known[3], endpoint, per_endpoint)
keep_answer(request, 'ok')
return 'ok'
