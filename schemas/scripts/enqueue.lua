-- Accept a job, exactly once for its id and for its idempotency key, or refuse it with the reason.
local id, spec, class, tenant = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local prompt_tokens, prompt_bytes, max_tokens, v = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local idem_key, body_hash, idem_ms = ARGV[9], ARGV[10], ARGV[11]
local delay_ms, deadline_ms, max_attempts = tonumber(ARGV[12]), tonumber(ARGV[13]), ARGV[14]
local retention_ms, events = ARGV[15], ARGV[16]
local max_jobs, max_bytes = tonumber(ARGV[17]), tonumber(ARGV[18])

if redis.call('EXISTS', key('job', id)) == 1 then return {'ok', id} end  -- the first reply was lost

local idem = idem_key ~= '' and key('idem', tenant, idem_key)
if idem then
  local known = redis.call('GET', idem)
  if known then
    local known_id, known_hash = string.match(known, '^(%S+) (%S+)$')
    return {known_hash == body_hash and 'ok' or 'conflict', known_id}
  end
end

local lane = key('lane', class, tenant)
local jobs = delay_ms > 0 and redis.call('ZCARD', key('delayed')) or depth(lane)
local bytes = tonumber(redis.call('HGET', key('queued_bytes'), class .. ':' .. tenant) or 0)
if jobs >= max_jobs or bytes + #spec > max_bytes then
  -- Room for a hundredth of the limit, at the rate at which jobs of this class have been ending.
  local mean = tonumber(redis.call('HGET', key('pace', class), 'mean') or 5000)
  return {'full', jobs, bytes, math.ceil(math.max(1000, mean * max_jobs / 100))}
end

local now = now_ms()
redis.call('HSET', key('job', id), 'spec', spec, 'class', class, 'tenant', tenant, 'v', v,
  'prompt_tokens', prompt_tokens, 'prompt_bytes', prompt_bytes, 'max_tokens', max_tokens,
  'max_attempts', max_attempts, 'retention_ms', retention_ms, 'enqueued_ms', now)
if events ~= '' then redis.call('HSET', key('job', id), 'events', events) end
if idem then redis.call('SET', idem, id .. ' ' .. body_hash, 'PX', idem_ms) end
if deadline_ms > 0 then
  redis.call('HSET', key('job', id), 'deadline_ms', now + deadline_ms)
  redis.call('ZADD', key('deadlines'), now + deadline_ms, id)
end
if delay_ms > 0 then
  redis.call('HSET', key('job', id), 'state', 'delayed')
  redis.call('ZADD', key('delayed'), now + delay_ms, id)
else
  enter_lane(id)
end
return {'ok', id}
