-- Take as many jobs as fit the worker's free KV pages, most urgent first, and no job that does not fit.
-- The first head that does not fit ends the claim: nothing overtakes it, so a large job is never starved.
local worker, nonce, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
local budget, slots, page_size = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local capacity, output_ratio, tokens_per_byte = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local suspect_slots, max_v, resync = tonumber(ARGV[10]), tonumber(ARGV[11]), ARGV[12] == '1'
local classes = {unpack(ARGV, 13)}

local MAX_SKIPS = 32  -- tenants a class whose heads wait for a newer worker; bounds what a claim looks at

allow_when_full()
local now = now_ms()
local taken, blocked = {}, nil

-- Tokens of KV that the job will hold, whole pages, by its sizes and its progress. A prompt beyond the
-- worker's capacity costs nothing: the worker tells its producer so at once instead of blocking the queue.
local function cost_of(entry, offset)
  local prompt = tonumber(entry.prompt_tokens)
  if prompt == 0 then prompt = math.ceil(tonumber(entry.prompt_bytes) * tokens_per_byte) end
  if prompt + offset >= capacity then return 0 end
  local output = math.ceil((tonumber(entry.max_tokens) - offset) * output_ratio)
  local tokens = math.min(prompt + offset + math.max(output, 1), capacity)
  return math.ceil(tokens / page_size) * page_size
end

local JOB_FIELDS = {'state', 'spec', 'class', 'tenant', 'offset', 'attempts', 'suspect', 'events', 'started_ms',
  'enqueued_ms', 'deadline_ms', 'max_runtime_ms', 'cancel', 'stream', 'entry', 'worker', 'fence'}

local function hand_out(id, job, fence)
  local offset = tonumber(job.offset or 0)
  taken[#taken + 1] = {id, fence, job.spec, offset, tonumber(job.attempts or 0),
    tonumber(job.suspect or -1), now - tonumber(job.enqueued_ms), offset > 0 and log_of(id) or {}}
end

local function first_start(id, job)
  redis.call('HSET', key('job', id), 'started_ms', now)
  notify(id, job.events, 'job.started', now)
  if not job.max_runtime_ms then return end
  local deadline = math.min(now + tonumber(job.max_runtime_ms), tonumber(job.deadline_ms or math.huge))
  redis.call('HSET', key('job', id), 'deadline_ms', deadline)
  redis.call('ZADD', key('deadlines'), deadline, id)
end

local function start(id, job)
  local fence = redis.call('HINCRBY', key('job', id), 'epoch', 1) .. '.' .. nonce
  if job.stream == key('lane', job.class, job.tenant) then count_bytes(job.class, job.tenant, -#job.spec) end
  redis.call('HSET', key('job', id), 'state', 'running', 'fence', fence, 'worker', worker)
  redis.call('ZADD', key('leases'), now + lease_ms, id)
  if not job.started_ms then first_start(id, job) end
  hand_out(id, job, fence)
end

local function bury(stream, entry_id, entry, cause)
  take(stream)
  drop(stream, entry_id)
  redis.call('XADD', key('dead'), '*', 'job', entry.job or '', 'cause', cause, 'at_ms', now, 'from', stream)
end

-- Deal with the head of one stream. Returns 'empty', 'blocked', 'newer' (it is for a newer worker), or 'next' and
-- the cost and id of what it started.
local function serve(stream)
  local entry_id, entry = peek(stream)
  if not entry_id then return 'empty' end
  local id = entry.job
  if not (id and tonumber(entry.prompt_tokens) and tonumber(entry.prompt_bytes)
      and tonumber(entry.max_tokens) and tonumber(entry.v)) then
    bury(stream, entry_id, entry, 'malformed entry')
    return 'next', 0
  end
  local job = fields_of(id, unpack(JOB_FIELDS))
  if not (job.state and job.spec and job.class and job.tenant and tonumber(job.enqueued_ms)) then
    bury(stream, entry_id, entry, 'job record missing')
    return 'next', 0
  end
  if job.state ~= 'queued' or job.entry ~= entry_id then  -- an entry written twice: the other one counts
    take(stream)
    drop(stream, entry_id)
    return 'next', 0
  end
  if job.cancel or due(job, now) then
    take(stream)
    local state = job.cancel and 'cancelled' or 'expired'
    end_unattended(id, state, state, '', retention_of(id), now)
    return 'next', 0
  end
  if tonumber(entry.v) > max_v then return 'newer' end
  local cost = cost_of(entry, tonumber(job.offset or 0))
  if slots < 1 or cost > budget then
    blocked = {job.class, cost}
    return 'blocked'
  end
  take(stream)
  start(id, job)
  slots, budget = slots - 1, budget - cost
  return 'next', cost, id
end

-- Jobs that have run before. No limit of their tenants applies: they were within it when they started.
local function serve_all(stream, limit)
  local state, cost, id
  repeat
    state, cost, id = serve(stream)
    if id then
      limit = limit - 1
      local tenant = redis.call('HGET', key('job', id), 'tenant')
      if policy_of(tenant).max_running then redis.call('SADD', key('running', tenant), id) end
    end
  until state ~= 'next' or limit < 1
end

-- Whether the tenant has as many running jobs as it may have; forgets those that vanished without leaving.
local function at_limit(tenant, max_running)
  local running = key('running', tenant)
  if not max_running or redis.call('SCARD', running) < max_running then return false end
  for _, id in ipairs(redis.call('SMEMBERS', running)) do
    if not redis.call('ZSCORE', key('leases'), id) then redis.call('SREM', running, id) end
  end
  return redis.call('SCARD', running) >= max_running
end

local function serve_lanes(class)
  local backlog, skipped = key('backlog', class), 0
  while not blocked and skipped < MAX_SKIPS do
    local head = redis.call('ZRANGE', backlog, skipped, skipped, 'WITHSCORES')
    local tenant = head[1]
    if not tenant then return end
    local policy = policy_of(tenant)
    if at_limit(tenant, policy.max_running) then
      leave_backlog(class, tenant)
      redis.call('SADD', key('parked'), class .. ':' .. tenant)
    else
      local state, cost, id = serve(key('lane', class, tenant))
      if state == 'empty' then
        leave_backlog(class, tenant)
      elseif state == 'newer' then
        skipped = skipped + 1
      elseif id then
        if skipped == 0 then redis.call('HSET', key('served', class), '*', head[2]) end
        redis.call('ZINCRBY', backlog, cost / (policy.weight or 1), tenant)
        if policy.max_running then redis.call('SADD', key('running', tenant), id) end
      end
    end
  end
end

-- The reply to an earlier claim was lost: what this worker holds, for it to find what it does not know of.
if resync then
  for _, id in ipairs(redis.call('ZRANGE', key('leases'), 0, -1)) do
    local job = fields_of(id, unpack(JOB_FIELDS))
    if job.worker == worker and string.match(job.fence or '', '%.(.+)$') == nonce then
      hand_out(id, job, job.fence)
    end
  end
  return {taken, {}}
end

for _, class in ipairs(classes) do
  serve_all(key('retry', class), math.huge)
  if not blocked and suspect_slots > 0 then
    local before = #taken
    serve_all(key('suspects', class), suspect_slots)
    suspect_slots = suspect_slots - (#taken - before)
  end
  if not blocked then serve_lanes(class) end
  if blocked then break end
end
-- Nothing waits: old wake-ups would only make the next worker look in vain. A claim of some classes can't know.
if #taken == 0 and not blocked and #classes == #CLASSES then redis.call('DEL', key('bell')) end
return {taken, blocked or {}}
