-- List a worker, or renew it, with what it reports as fields and values. Of these, `capacity_tokens` and `classes`
-- tell smaller workers what they can leave to it; `fingerprint`, `max_v` and `classes` say which jobs with tokens it
-- can continue.
-- Returns the ms within which it must exit, if an operator has asked it to, and the fingerprints of other models that
-- were served under the same name in the last seconds.
-- args: worker silence_ms facts...
-- uses: workers
local HEARD_OF_MS = 10 * 1000

allow_when_full()
local facts, now = to_fields({unpack(ARGV, facts_from)}), now_ms()
redis.call('ZADD', key('workers'), now, worker)
for _, class in ipairs(CLASSES) do
  local serves = not facts.classes or string.find(',' .. facts.classes .. ',', ',' .. class .. ',', 1, true)
  if facts.capacity_tokens and serves then
    redis.call('ZADD', key('capacity', class), facts.capacity_tokens, worker)
  else
    redis.call('ZREM', key('capacity', class), worker)
  end
  for _, readers in ipairs(serves and readable(class, tonumber(facts.max_v or 1), facts.fingerprint or '') or {}) do
    if readers ~= class then redis.call('ZADD', key('readers'), now, readers) end
  end
end
redis.call('HSET', key('worker', worker), unpack(ARGV, facts_from))
redis.call('PEXPIRE', key('worker', worker), silence_ms)

local answer, seen = {redis.call('HGET', key('worker', worker), 'drain') or ''}, {[facts.fingerprint or ''] = true}
for _, readers in ipairs(redis.call('ZRANGEBYSCORE', key('readers'), now - HEARD_OF_MS, '+inf', 'LIMIT', 0, 64)) do
  local model = string.match(readers, ':(%x+)$')
  if model and not seen[model] then
    seen[model] = true
    answer[#answer + 1] = model
  end
end
return answer
