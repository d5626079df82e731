-- A worker says that it lives and what it has. ARGV: id, time to live in ms, then field, value, ... Of these,
-- `capacity_tokens` and `classes` tell smaller workers what they can leave to it.
-- The answer is in how many ms it is to end by itself, if somebody has asked it to.
allow_when_full()
local worker, facts = ARGV[1], to_fields({unpack(ARGV, 3)})
redis.call('ZADD', key('workers'), now_ms(), worker)
for _, class in ipairs(CLASSES) do
  local serves = not facts.classes or string.find(',' .. facts.classes .. ',', ',' .. class .. ',', 1, true)
  if facts.capacity_tokens and serves then
    redis.call('ZADD', key('capacity', class), facts.capacity_tokens, worker)
  else
    redis.call('ZREM', key('capacity', class), worker)
  end
end
redis.call('HSET', key('worker', worker), unpack(ARGV, 3))
redis.call('PEXPIRE', key('worker', worker), ARGV[2])
return redis.call('HGET', key('worker', worker), 'drain') or ''
