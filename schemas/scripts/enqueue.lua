-- Accept a job, exactly once for its id and for its idempotency key, or refuse it with the reason.
-- args: id spec class tenant prompt_tokens prompt_bytes max_tokens v idempotency_key body_hash idempotency_ms
--   delay_ms:number deadline_ms:number max_runtime_ms:number max_attempts retention_ms events
--   max_queued_jobs:number max_queued_bytes:number metadata retry_of chosen:flag n:number
-- uses: jobs

local MINUTE_MS = 60000
local MAX_FORGOTTEN = 16  -- delayed jobs looked at before one is refused

if redis.call('EXISTS', key('job', id)) == 1 then return {'ok', id} end  -- the first reply was lost

local idem = idempotency_key ~= '' and key('idem', tenant, idempotency_key)
if idem then
  local known = redis.call('GET', idem)
  if known then
    local known_id, known_hash = string.match(known, '^(%S+) (%S+)$')
    if known_id ~= id then return {known_hash == body_hash and 'ok' or 'conflict', known_id} end
  end
end

-- After the job of this id or idempotency key, which may be of before the alias.
if not chosen and redis.call('EXISTS', key('alias')) == 1 then return {'alias'} end

local now = now_ms()
local answers = math.max(1, number(n))  -- of up to max_tokens each
local policy = policy_of(tenant)

-- Forget delayed jobs that older workers have promoted or ended.
local function forget_undelayed(each)
  local own, forgotten = key('delayed_jobs', each, tenant), false
  for _, old in ipairs(redis.call('ZRANGE', own, 0, MAX_FORGOTTEN - 1)) do
    if fields_of(old, 'state').state ~= 'delayed' then
      leave_delayed(old, each, tenant)
      forgotten = true
    end
  end
  return forgotten
end

-- The producer limits the lane, the tenant's policy all of its lanes. A delayed job counts as if it were in its lane.
local function room()
  local lane_jobs, lane_bytes, jobs, bytes = 0, 0, 0, 0
  for _, each in ipairs((policy.max_queued_jobs or policy.max_queued_bytes) and CLASSES or {class}) do
    local here = depth(key('lane', each, tenant)) + redis.call('ZCARD', key('delayed_jobs', each, tenant))
    local size = number(redis.call('HGET', key('queued_bytes'), each .. ':' .. tenant))
      + number(redis.call('HGET', key('delayed_bytes'), each .. ':' .. tenant))
    jobs, bytes = jobs + here, bytes + size
    if each == class then lane_jobs, lane_bytes = here, size end
  end
  local function over(count, size, most_jobs, most_bytes)
    if count < most_jobs and size + #spec <= most_bytes then return nil end
    -- Room for a hundredth of the limit, at the rate at which jobs of this class have been ending.
    local mean = tonumber(redis.call('HGET', key('pace', class), 'mean') or 5000)
    return {'full', count, size, math.ceil(math.max(1000, mean * math.min(most_jobs, 1e6) / 100))}
  end
  return over(lane_jobs, lane_bytes, max_queued_jobs, max_queued_bytes)
    or over(jobs, bytes, policy.max_queued_jobs or math.huge, policy.max_queued_bytes or math.huge)
end

-- Virtual scheduling (GCRA): `at` is when the tenant will have paid for what it was given. A minute's worth may be
-- taken at once; a job that is larger than that is accepted when nothing is owed, and paid for afterwards.
local function rate(name, per_minute, amount)
  if not per_minute then return nil end
  local stored = redis.call('HMGET', key('rate', tenant), name, 'written')
  local ahead_ms = math.max(0, tonumber(stored[2] or 0) - now)  -- if the clock has been set back since
  local at = math.max(tonumber(stored[1] or 0) - ahead_ms, now)
  local due_at = at + amount * MINUTE_MS / per_minute
  if at > now and due_at - now > MINUTE_MS then
    return nil, {'rate', name, string.format('%g', per_minute), math.ceil(math.min(due_at - now - MINUTE_MS, at - now))}
  end
  return due_at
end

local refusal = room()
if refusal and forget_undelayed(class) then refusal = room() end
if refusal then return refusal end
local tokens = tonumber(prompt_tokens) + math.ceil(prompt_bytes * TOKENS_PER_BYTE) + tonumber(max_tokens) * answers
local requests_at, tokens_at
requests_at, refusal = rate('requests', policy.requests_per_minute, 1)
if refusal then return refusal end
tokens_at, refusal = rate('tokens', policy.tokens_per_minute, tokens)
if refusal then return refusal end

local record = {'spec', spec, 'class', class, 'tenant', tenant, 'v', v, 'prompt_tokens', prompt_tokens,
  'prompt_bytes', prompt_bytes, 'max_tokens', max_tokens, 'max_attempts', max_attempts,
  'retention_ms', retention_ms, 'enqueued_ms', now}
local function note(name, value) record[#record + 1], record[#record + 2] = name, value end

if events ~= '' then note('events', events) end
if (metadata or '') ~= '' then note('metadata', metadata) end
if (retry_of or '') ~= '' then note('retry_of', retry_of) end
if answers > 1 then note('n', answers) end
if max_runtime_ms > 0 then note('max_runtime_ms', max_runtime_ms) end
if idem then redis.call('SET', idem, id .. ' ' .. body_hash, 'PX', idempotency_ms) end
if deadline_ms > 0 then
  note('deadline_ms', now + deadline_ms)
  redis.call('ZADD', key('deadlines'), now + deadline_ms, id)
end
redis.call('ZADD', key('jobs'), now, id)
-- The record is written last and makes the job exist: an interrupted first try has left none.
if delay_ms > 0 then
  delay(id, class, tenant, now + delay_ms, #spec)
  redis.call('HSET', key('job', id), 'state', 'delayed', unpack(record))
else
  enter_lane(id, {class = class, tenant = tenant, v = v, prompt_tokens = prompt_tokens,
    prompt_bytes = prompt_bytes, max_tokens = max_tokens}, unpack(record))
end
for name, at in pairs({requests = requests_at, tokens = tokens_at}) do
  redis.call('HSET', key('rate', tenant), name, string.format('%.0f', at), 'written', now)
  redis.call('PEXPIRE', key('rate', tenant), math.ceil(math.max(requests_at or now, tokens_at or now) - now) + 1)
end
return {'ok', id}
