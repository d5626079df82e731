-- Ask a worker to hand its jobs over and exit; it learns of this from its next heartbeat.
-- args: worker finish_ms
-- uses: base
if redis.call('EXISTS', key('worker', worker)) == 0 then return 'missing' end
redis.call('HSET', key('worker', worker), 'drain', finish_ms)
return 'ok'
