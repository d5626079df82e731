-- Take as many jobs as fit the worker's free KV pages, most urgent first, and none that doesn't fit.
-- The first head that doesn't fit ends the claim. It leaves its lane and is held for this worker, which takes only
-- more urgent jobs before it; other workers pass it over, unless they have the room.
-- args: worker nonce lease_ms:number budget:number slots:number page_size:number capacity:number
--   output_ratio:number tokens_per_byte:number suspect_slots:number max_v:number resync:flag company:flag
--   context:number interactive_room:number standard_room:number pool:number
--   fingerprint classes...
-- uses: ends
local room = {interactive = interactive_room, standard = standard_room, batch = 0}  -- if others gave way
local classes = {unpack(ARGV, classes_from)}

local MAX_LOOKS = 64   -- at things that start nothing: ended or broken heads, empty lanes, tenants at their limit
local MAX_SKIPS = 32   -- tenants per class whose heads are for other workers; then as many again, anywhere behind them
local MAX_PASSED = 32  -- jobs per class that have run, or were set aside, and are for other workers
local MAX_ASIDE = 8    -- jobs for larger workers that leave their lanes, so that those behind them can continue
local MAX_UNFIT = 2    -- jobs per claim that no worker can hold, to be refused: reading them takes time too
local MOST_BYTES = 2 ^ 17  -- of specs in one claim: leases are renewed in the same round trip
local PAGE = 16
local DAMAGED = '{"code":"invalid_job","message":"its record was damaged: %s"}'

allow_when_full()
local now = now_ms()
local taken, blocked = {}, nil
local looks, cleared, unfit, passed = MAX_LOOKS, 0, MAX_UNFIT, false
local left_to_others = 0  -- in the current class
local bytes = 0

local larger_than_this = {}  -- by class and model

local function is_left_to_larger(class, model)
  local name = class .. ':' .. (model or '')
  if larger_than_this[name] == nil then larger_than_this[name] = is_larger_elsewhere(class, model, capacity) end
  return larger_than_this[name]
end

local function prompt_of_entry(entry) return prompt_of(entry, tokens_per_byte) end

-- The KV tokens that the job will hold, in whole pages and at most `most`, judging by its sizes and its progress.
-- An example, with pages of 16: a prompt of 100 tokens and a quarter of max_tokens = 256 are 164 tokens, so
-- 176. Several answers share the pages of their prompt, but for its last: four to this prompt are 100 + 4 * 64 tokens
-- and three pages more, so 416.
local function pages_of(entry, offset, most, job)
  local answers = choices_of(job)
  local output = math.ceil((tonumber(entry.max_tokens) * answers - offset) * output_ratio)
  local tokens = prompt_of_entry(entry) + offset + math.max(output, answers) + (answers - 1) * page_size
  if answers > 1 then most = math.min(most * answers, math.max(most, pool)) end
  return math.ceil(math.min(tokens, most) / page_size) * page_size
end

-- What the job costs here; nil if a larger worker could take it further. A prompt that no worker can hold costs
-- nothing, so that its producer is told at once and it doesn't block the queue.
local function cost_of(entry, offset, job)
  local known = prompt_of_entry(entry) + math.floor(offset / choices_of(job))  -- the longest answer has as many
  if known >= context then return 0 end
  local all = math.min(prompt_of_entry(entry) + tonumber(entry.max_tokens), context)
  if all > capacity and is_left_to_larger(job.class, model_of(job)) then return nil end
  return known < capacity and pages_of(entry, offset, capacity, job) or 0
end

local JOB_FIELDS = {'state', 'class', 'tenant', 'offset', 'attempts', 'suspect', 'events', 'started_ms',
  'enqueued_ms', 'deadline_ms', 'max_runtime_ms', 'cancel', 'stream', 'entry', 'worker', 'fence', 'prompt_tokens',
  'prompt_bytes', 'held', 'passed', 'charged', 'epoch', 'fingerprint', 'mixed', 'n'}

-- The size of a job's spec, which is read only when it is handed out; nil if it has none.
local function size_of(id)
  local size = redis.call('HSTRLEN', key('job', id), 'spec')
  return (size > 0 or redis.call('HGET', key('job', id), 'spec')) and size or nil
end

-- Without its log, and without a large spec: the worker reads these when it gets to the job.
local function hand_out(id, job, fence, cost, size)
  local spec = false
  if bytes + size <= MOST_BYTES then
    spec, bytes = redis.call('HGET', key('job', id), 'spec'), bytes + size
  end
  taken[#taken + 1] = {id, fence, spec, tonumber(job.offset or 0) or 0, tonumber(job.attempts or 0) or 0,
    tonumber(job.suspect or -1) or -1, math.max(0, now - (tonumber(job.enqueued_ms) or now)),
    tonumber(job.prompt_tokens or 0) or 0, job.class or '', job.tenant or '', cost, size, choices_of(job)}
end

local function first_start(id, job)
  notify(id, job.events, 'job.started', now)
  if job.max_runtime_ms then
    local deadline = math.min(now + tonumber(job.max_runtime_ms), tonumber(job.deadline_ms or math.huge))
    redis.call('ZADD', key('deadlines'), deadline, id)
    redis.call('HSET', key('job', id), 'deadline_ms', deadline)
  end
  redis.call('HSET', key('job', id), 'started_ms', now)
end

-- Record which model makes the next tokens. A job that continued with another model belongs to the latest one.
local function note_model(id, job)
  if fingerprint == '' then
    redis.call('HDEL', key('job', id), 'worker_fingerprint')
  else
    redis.call('HSET', key('job', id), 'worker_fingerprint', fingerprint)
    if job.mixed then redis.call('HSET', key('job', id), 'fingerprint', fingerprint) end
  end
end

local function start(id, job, cost, size)
  local epoch = tonumber(job.epoch or 0) + 1
  local fence = string.format('%d.%s', epoch, nonce)
  local lane = key('lane', job.class, job.tenant)
  redis.call('ZADD', key('leases'), now + lease_ms, id)
  redis.call('ZADD', key('held', worker), now, id)
  if not job.started_ms then first_start(id, job) end
  redis.call('HSET', key('job', id), 'state', 'running', 'epoch', epoch, 'fence', fence, 'worker', worker)
  if job.stream == lane then
    take(job.stream)
    count_bytes(job.class, job.tenant, -size)
  else  -- it isn't necessarily the first there
    drop(job.stream, job.entry)
    redis.call('HDEL', key('job', id), 'stream', 'entry')
  end
  if job.held or job.passed then redis.call('HDEL', key('job', id), 'held', 'passed') end
  note_model(id, job)
  if job.stream ~= lane and not job.charged then  -- by an older worker, or before it was requeued
    redis.call('HSET', key('job', id), 'charged', prompt_of(job) + number(job.offset))
  end
  hand_out(id, job, fence, cost, size)
end

-- End a job whose record can't be relied on, where its entry was found.
local function end_damaged(id, job, stream, entry_id, what)
  redis.call('HSET', key('job', id), 'state', 'queued', 'stream', stream, 'entry', entry_id)
  end_unattended(id, 'failed', 'error', string.format(DAMAGED, what), retention_of(id), now)
  looks = looks - looks_for(job) + 1  -- `looked` counts one
end

-- Make a dead letter of an entry that no worker can run; if it has a record, its job ends.
local function bury(stream, entry_id, entry, cause, job)
  redis.call('XADD', key('dead'), '*', 'job', entry.job or '', 'cause', cause, 'at_ms', now, 'from', stream)
  if job and next(job) and not TERMINAL[job.state] then
    end_damaged(entry.job, job, stream, entry_id, 'a part of it is missing')
  end
  drop(stream, entry_id)
end

-- Whether the job is where its record says, which isn't here: then this entry is a duplicate.
local function is_elsewhere(id, job, stream, entry_id)
  if job.state == 'running' then return redis.call('ZSCORE', key('leases'), id) end
  if job.state == 'delayed' then return redis.call('ZSCORE', key('delayed'), id) end
  if job.state ~= 'queued' then return TERMINAL[job.state] end
  local named = job.stream or ''
  if string.sub(named, 1, #KEYS[1] + 1) ~= KEYS[1] .. ':' or not job.entry then return false end
  local found = (attempt('XRANGE', named, job.entry, job.entry) or {})[1]
  return found and to_fields(found[2]).job == id and not (named == stream and found[1] == entry_id)
end

-- Whether the tenant has as many running jobs as it may; forgets some that disappeared without being removed.
local function at_limit(tenant, max_running)
  local running = key('running', tenant)
  if not max_running or redis.call('SCARD', running) < max_running then return false end
  for _, id in ipairs(redis.call('SRANDMEMBER', running, PAGE)) do
    local waits = fields_of(id, 'state').state == 'queued'  -- set aside
    if not (waits or redis.call('ZSCORE', key('leases'), id)) then redis.call('SREM', running, id) end
  end
  return redis.call('SCARD', running) >= max_running
end

-- Leave the job to other workers and wake the next one: the bell has woken one that can't take it.
local function pass_over(id, job)
  passed = true
  if number(job.passed) >= redis.call('ZCARD', key('workers')) then return end
  redis.call('HSET', key('job', id), 'passed', number(job.passed) + 1)
  ring()
end

-- Whether this worker is to hold the job: no other does, or the other can't make room by having jobs give way as
-- this one can.
local function hold(id, job, cost)
  local makes_room = cost <= room[job.class] and 1 or 0
  local holder, until_ms, firm = string.match(job.held or '', '^(%S+) (%d+) (%d)$')
  local held = holder and tonumber(until_ms) > now and believed(until_ms, now + longest_lease(lease_ms))
  if held and holder ~= worker and (firm == '1' or makes_room == 0) then return false end
  if held and holder == worker and tonumber(until_ms) > now + lease_ms / 2 then return true end
  redis.call('HSET', key('job', id), 'held', string.format('%s %d %d', worker, now + lease_ms, makes_room))
  return true
end

-- Deal with an entry; `kind` is that of a stream of jobs that have run. Returns 'cleared' (it is gone), 'others' (it
-- is for other workers), 'larger' (for workers with more memory), 'blocked', 'full' with the cost of the job that
-- doesn't fit, or 'started' with its cost; then the job's id and record.
local function look(stream, entry_id, entry, kind)
  local id = entry.job
  if not (id and tonumber(entry.prompt_tokens) and tonumber(entry.prompt_bytes)
      and tonumber(entry.max_tokens) and tonumber(entry.v)) then
    bury(stream, entry_id, entry, 'malformed entry')
    return 'cleared'
  end
  local job = fields_of(id, unpack(JOB_FIELDS))
  local size = job.state and size_of(id)
  if not (size and job.class and job.tenant) then
    bury(stream, entry_id, entry, 'job record missing', job)
    return 'cleared'
  end
  if job.state ~= 'queued' or job.stream ~= stream or job.entry ~= entry_id then
    if not is_elsewhere(id, job, stream, entry_id) then
      end_damaged(id, job, stream, entry_id, 'it does not say where the job is')
    end
    drop(stream, entry_id)  -- it was written twice: the other one counts
    return 'cleared'
  end
  local offset = tonumber(job.offset or 0)
  if not offset then
    end_damaged(id, job, stream, entry_id, 'its offset is not a number')
    return 'cleared'
  end
  if job.cancel or due(job, now) then
    local state = job.cancel and 'cancelled' or 'expired'
    end_unattended(id, state, state, '', retention_of(id), now)
    looks = looks - looks_for(job) + 1  -- `looked` counts one
    return 'cleared'
  end
  local newer, model = tonumber(entry.v) > max_v, model_of(job)
  if kind and (newer or (model and model ~= fingerprint)) then  -- an older script put it here
    requeue(id, kind)
    return 'cleared'
  end
  if newer then
    pass_over(id, job)
    return 'others'
  end
  local cost = cost_of(entry, offset, job)
  if not cost then return 'larger', nil, id, job end
  if slots < 1 or (cost == 0 and unfit < 1) then
    blocked = slots < 1 and {job.class, cost} or {}
    return 'blocked'
  end
  if cost > budget then return 'full', cost, id, job end
  start(id, job, cost, size)
  slots, budget = slots - choices_of(job), budget - cost  -- more answers than slots take turns
  if cost == 0 then unfit = unfit - 1 end
  return 'started', cost, id, job
end

-- Count a look by its outcome.
local function looked(state)
  if state ~= 'started' then looks = looks - 1 end
  if state == 'cleared' then cleared = cleared + 1 end
end

-- Hold the job that doesn't fit, or leave it to the worker that holds it.
local function wait_for(id, job, cost)
  if hold(id, job, cost) then blocked = {job.class, cost} else passed = true end
end

-- Serve jobs that have run before, or were set aside. Their tenants' limits were checked when they left a lane.
local function serve_all(kind, readers, most)
  local stream = key(kind, readers)
  local after = taken_up_to(stream)
  while after do
    local entries = redis.call('XRANGE', stream, '(' .. after, '+', 'COUNT', PAGE)
    for _, found in ipairs(entries) do
      if blocked or most < 1 or looks < 1 or left_to_others >= MAX_PASSED then return end
      after = found[1]
      local state, cost, id, job = look(stream, after, to_fields(found[2]), kind)
      if state == 'full' or state == 'larger' then
        left_to_others = left_to_others + 1
      else
        looked(state)
      end
      if state == 'started' then
        most = most - 1
        if policy_of(job.tenant).max_running then redis.call('SADD', key('running', job.tenant), id) end
      elseif state == 'full' then
        wait_for(id, job, cost)
      elseif state == 'larger' then
        pass_over(id, job)
      end
    end
    if #entries < PAGE then return end
  end
end

-- Large estimates are often wrong, so only a little is charged in advance, and the rest as the job runs.
-- A prompt of 100 tokens with max_tokens = 4000 is charged 356 at most.
local function charge_in_advance(id, job, cost)
  cost = math.min(cost, prompt_of(job) + number(job.offset) + CHARGED_AT_ONCE)
  charge(job.class, job.tenant, cost)
  redis.call('HSET', key('job', id), 'charged', cost)
end

-- Move a job from its lane to `retry`, which workers read before the lanes: it was its tenant's turn.
local function set_aside(id, job, policy, cost)
  requeue(id, 'retry')
  charge_in_advance(id, job, cost)
  if policy.max_running then redis.call('SADD', key('running', job.tenant), id) end
end

-- What an operator has paused. Jobs that have left their lanes continue: a pause stops nothing that has begun.
local any_paused = redis.call('EXISTS', key('paused')) == 1

local function is_paused(...)
  if not any_paused then return false end
  local since = redis.call('HMGET', key('paused'), ...)
  return since[1] or since[2]
end

-- Serve the head of a tenant's lane. False if it is for other workers, and with it everything behind it; true if it
-- was taken.
local function serve_lane(class, tenant)
  local policy, lane = policy_of(tenant), key('lane', class, tenant)
  local held_back = is_paused('*:' .. tenant, class .. ':' .. tenant) or at_limit(tenant, policy.max_running)
  local entry_id, entry
  if not held_back then entry_id, entry = peek(lane) end
  if not entry_id then
    leave_backlog(class, tenant)
    if held_back then redis.call('SADD', key('parked'), class .. ':' .. tenant) end
    looked('cleared')
    return nil
  end
  local state, cost, id, job = look(lane, entry_id, entry)
  looked(state)
  if state == 'started' then
    charge_in_advance(id, job, cost)
    if policy.max_running then redis.call('SADD', key('running', tenant), id) end
    return true
  elseif state == 'full' and left_to_others >= MAX_PASSED then
    passed = true
    return false  -- enough workers are making room for large jobs
  elseif state == 'full' then
    set_aside(id, job, policy, cost)
    wait_for(id, job, cost)
    return true
  elseif state == 'larger' then
    pass_over(id, job)
    if depth(key('retry', class)) >= MAX_ASIDE then return false end
    set_aside(id, job, policy, pages_of(entry, tonumber(job.offset or 0), context, job))
    return true
  elseif state == 'others' then
    return false
  end
end

-- An example, with equal weights: A has been served 100 virtual tokens, B 300. A's first job is charged 150,
-- so A, now at 250, is first again; after another such job it is at 400, and B's turn comes.
local function serve_lanes(class)
  if is_paused('*:*', class .. ':*') then return end
  local backlog, skipped = key('backlog', class), 0
  while not blocked and looks > 0 and skipped < MAX_SKIPS do
    local head = redis.call('ZRANGE', backlog, skipped, skipped, 'WITHSCORES')
    if not head[1] then return end
    local served = serve_lane(class, head[1])
    if served and skipped == 0 and tonumber(head[2]) > virtual_time(class) then
      redis.call('HSET', key('served', class), '*', head[2])
    end
    if served == false then skipped = skipped + 1 end
  end
  if skipped < MAX_SKIPS or looks < 1 then return end
  local behind = skipped + now % math.max(1, redis.call('ZCARD', backlog) - skipped)
  for _, tenant in ipairs(redis.call('ZRANGE', backlog, behind, behind + MAX_SKIPS - 1)) do
    if blocked or looks < 1 then return end
    serve_lane(class, tenant)
  end
end

-- The reply to an earlier claim was lost: list everything that this worker holds, so that it finds what it doesn't
-- know of. That is the latest, so the latest come first and get their specs.
if resync then
  local held = redis.call('ZRANGE', key('held', worker), 0, -1)
  for i = #held, 1, -1 do
    local id = held[i]
    local job = fields_of(id, unpack(JOB_FIELDS))
    if job.worker == worker and string.match(job.fence or '', '%.(.+)$') == nonce then
      local sizes = fields_of(id, 'prompt_tokens', 'prompt_bytes', 'max_tokens')
      local sized = tonumber(sizes.prompt_tokens) and tonumber(sizes.prompt_bytes) and tonumber(sizes.max_tokens)
      local offset = number(job.offset)
      local cost = sized and (cost_of(sizes, offset, job) or pages_of(sizes, offset, capacity, job)) or 0
      hand_out(id, job, job.fence, cost, size_of(id) or 0)
    end
  end
  return {taken, {}, 0, 0, {}}
end

local function a_suspect_waits()
  for _, class in ipairs(classes) do
    for _, readers in ipairs(readable(class, max_v, fingerprint)) do
      if peek(key('suspects', readers)) then return 1 end
    end
  end
  return 0
end

-- Try a suspect alone: a worker that holds nothing takes one, and nothing beside it.
local function try_suspect()
  for _, class in ipairs(classes) do
    left_to_others = 0
    for _, readers in ipairs(readable(class, max_v, fingerprint)) do
      serve_all('suspects', readers, 1)
      blocked = nil  -- if it doesn't fit an empty worker, another one must try it
      if #taken > 0 then
        redis.call('SET', key('trial'), string.format('%s %d', worker, now + lease_ms), 'PX', lease_ms)
        return true
      end
    end
  end
  if who_tries() == worker and a_suspect_waits() == 0 then redis.call('DEL', key('trial')) end
end

local others_first = suspect_slots > 0 and others_come_first(now)
local tried = suspect_slots > 0 and not others_first and try_suspect()
if not tried then
  for _, class in ipairs(classes) do
    left_to_others = 0
    for _, readers in ipairs(readable(class, max_v, fingerprint)) do serve_all('retry', readers, math.huge) end
    if not blocked then serve_lanes(class) end
    if blocked or looks < 1 then break end
  end
  if others_first and #taken == 0 and not blocked then tried = try_suspect() end
end
if #taken > 0 then
  if company then redis.call('ZADD', key('held', worker), 0, ACCOMPANIED) end
  redis.call('PEXPIRE', key('held', worker), lease_ms + HELD_MS)
end
-- The next claim gets further if looks cleared something, or if jobs that no worker can hold are left to refuse.
local more = (looks < 1 and cleared > 0) or (blocked and not blocked[1])
-- Nothing waits: old wake-ups would only make the next worker look in vain. Only a claim of all classes can know.
if #taken == 0 and not (blocked or more or passed) and #classes == #CLASSES then redis.call('DEL', key('bell')) end
return {taken, blocked or {}, more and 1 or 0, tried and a_suspect_waits() or 0, unattended}
