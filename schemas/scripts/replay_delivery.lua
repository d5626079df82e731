-- Send a delivery again, from the start of its schedule, because somebody says so: its endpoint is there again.
local id, per_endpoint = ARGV[1], tonumber(ARGV[2])
local endpoint = redis.call('HGET', key('delivery', id), 'endpoint')
if not endpoint then return 'missing' end
redis.call('DEL', key('endpoint', endpoint))
redis.call('HSET', key('delivery', id), 'state', 'pending', 'attempts', 0)
redis.call('ZADD', key('waiting', endpoint), now_ms(), id)
plan_endpoint(endpoint, per_endpoint)
return 'ok'
