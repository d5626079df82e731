-- Ask a worker to hand its jobs over and end; it reads this with its next heartbeat.
-- uses: base
local worker, finish_ms = ARGV[1], ARGV[2]
if redis.call('EXISTS', key('worker', worker)) == 0 then return 'missing' end
redis.call('HSET', key('worker', worker), 'drain', finish_ms)
return 'ok'
