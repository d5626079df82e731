-- A worker says that it lives and what it has. ARGV: id, time to live in ms, then field, value, ...
-- The answer is in how many ms it is to end by itself, if somebody has asked it to.
allow_when_full()
redis.call('ZADD', key('workers'), now_ms(), ARGV[1])
redis.call('HSET', key('worker', ARGV[1]), unpack(ARGV, 3))
redis.call('PEXPIRE', key('worker', ARGV[1]), ARGV[2])
return redis.call('HGET', key('worker', ARGV[1]), 'drain') or ''
