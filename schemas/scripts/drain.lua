-- Ask a worker to hand its jobs over and end; it reads this with its next heartbeat.
-- args: worker finish_ms
-- uses: base
if redis.call('EXISTS', key('worker', worker)) == 0 then return 'missing' end
redis.call('HSET', key('worker', worker), 'drain', finish_ms)
return 'ok'
