-- Take as many jobs as fit the worker's free KV pages, most urgent first, and no job that does not fit.
-- The first head that does not fit ends the claim: nothing overtakes it, so a large job is never starved.
local worker, nonce, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
local budget, slots, page_size = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local capacity, output_ratio, tokens_per_byte = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local suspect_slots, max_v = tonumber(ARGV[10]), tonumber(ARGV[11])
local classes = {unpack(ARGV, 12)}

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

local function start(id, job)
  local offset = tonumber(job.offset or 0)
  local fence = redis.call('HINCRBY', key('job', id), 'epoch', 1) .. '.' .. nonce
  if job.state == 'queued' and job.stream == key('lane', job.class, job.tenant) then
    count_bytes(job.class, job.tenant, -#job.spec)
  end
  redis.call('HSET', key('job', id), 'state', 'running', 'fence', fence, 'worker', worker)
  redis.call('HSETNX', key('job', id), 'started_ms', now)
  redis.call('ZADD', key('leases'), now + lease_ms, id)
  if not job.started_ms then notify(id, job.events, 'job.started', now) end
  local log = offset > 0 and log_of(id) or {}
  taken[#taken + 1] = {id, fence, job.spec, offset, tonumber(job.attempts or 0),
    tonumber(job.suspect or -1), now - tonumber(job.enqueued_ms), log}
end

local function bury(stream, entry_id, entry, cause)
  take(stream)
  drop(stream, entry_id)
  redis.call('XADD', key('dead'), '*', 'job', entry.job or '', 'cause', cause, 'at_ms', now, 'from', stream)
end

-- Deal with the head of one stream. Returns 'empty', 'blocked', or 'next' and the cost of what it started.
local function serve(stream, class)
  local entry_id, entry = peek(stream)
  if not entry_id then return 'empty' end
  local id = entry.job
  if not (id and tonumber(entry.prompt_tokens) and tonumber(entry.prompt_bytes)
      and tonumber(entry.max_tokens) and tonumber(entry.v)) then
    bury(stream, entry_id, entry, 'malformed entry')
    return 'next', 0
  end
  local job = fields_of(id, 'state', 'spec', 'class', 'tenant', 'offset', 'attempts', 'suspect', 'events',
    'started_ms', 'enqueued_ms', 'deadline_ms', 'cancel', 'stream', 'entry')
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
  local cost = cost_of(entry, tonumber(job.offset or 0))
  if slots < 1 or cost > budget or tonumber(entry.v) > max_v then
    blocked = {class or job.class, cost}
    return 'blocked'
  end
  take(stream)
  start(id, job)
  slots, budget = slots - 1, budget - cost
  return 'next', cost
end

local function serve_all(stream, limit)
  local state
  repeat
    local before = #taken
    state = serve(stream)
    limit = limit - (#taken - before)
  until state ~= 'next' or limit < 1
  return state
end

local state = serve_all(key('retry'), math.huge)
if state ~= 'blocked' and suspect_slots > 0 then state = serve_all(key('suspects'), suspect_slots) end

for _, class in ipairs(classes) do
  if state == 'blocked' then break end
  local backlog = key('backlog', class)
  repeat
    local head = redis.call('ZRANGE', backlog, 0, 0, 'WITHSCORES')
    local tenant = head[1]
    if not tenant then break end
    local cost
    state, cost = serve(key('lane', class, tenant), class)
    if state == 'empty' then
      leave_backlog(class, tenant)
    elseif state == 'next' then
      redis.call('HSET', key('served', class), '*', head[2])
      redis.call('ZINCRBY', backlog, cost, tenant)
    end
  until state == 'blocked'
end
if #taken == 0 and not blocked then redis.call('DEL', key('bell')) end
return {taken, blocked or {}}
