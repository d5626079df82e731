-- Do what becomes due as time passes: delayed jobs, deadlines, lapsed leases, dead workers, and tenants that were
-- parked under a policy that may have changed. Any process may run it, any number of times. A call handles at most
-- `limit` items of each kind, and counts the waiting jobs of at most `limit` tenants per class.
-- args: limit:number suspect_margin:number worker_silence_ms:number dead_retention_ms:number lease_ms:number
--   most_attempts:number model_grace_ms:number on_model_change
-- uses: deaths

local CLOCK_STEP_MS = 1000  -- the least step back of a clock that counts as having been ahead; smaller ones need no scan

allow_when_full()
local now = now_ms()
local counts = {promoted = 0, expired = 0, cancelled = 0, recovered = 0, dead = 0, workers = 0, model_changed = 0}

local pulse = to_fields(redis.call('HGETALL', key('pulse')))

local function ripe(index, at) return redis.call('ZRANGEBYSCORE', key(index), '-inf', at, 'LIMIT', 0, limit) end

-- Correct a job that arrived or started while Redis's clock was ahead: what follows from that time moves back too.
local function set_job_back(id)
  local job, set = fields_of(id, 'enqueued_ms', 'started_ms', 'deadline_ms', 'max_runtime_ms'), {}
  local ahead_ms = math.max(0, (tonumber(job.enqueued_ms) or 0) - now)
  local deadline = tonumber(job.deadline_ms) and job.deadline_ms - ahead_ms
  if (tonumber(job.started_ms) or 0) > now then
    set.started_ms = now
    if tonumber(job.max_runtime_ms) then deadline = math.min(deadline or math.huge, now + job.max_runtime_ms) end
  end
  if ahead_ms > 0 then set.enqueued_ms = now end
  if not next(set) then return end
  if deadline then
    set.deadline_ms = deadline
    redis.call('ZADD', key('deadlines'), 'XX', deadline, id)
  end
  for name, moment in pairs(set) do redis.call('HSET', key('job', id), name, string.format('%d', moment)) end
  local due_at = redis.call('ZSCORE', key('delayed'), id)
  if due_at then redis.call('ZADD', key('delayed'), 'XX', due_at - ahead_ms, id) end
  if ahead_ms > 0 then redis.call('ZADD', key('jobs'), 'XX', now, id) end
end

-- Once the clock is right again, scan the jobs of an index once, in order of their times.
local function set_jobs_back(index)
  local from = pulse[index]
  if tonumber(pulse.at or 0) > now + CLOCK_STEP_MS then from = now end
  if not from then return end
  local found = redis.call('ZRANGEBYSCORE', key(index), from, '+inf', 'WITHSCORES', 'LIMIT', 0, limit)
  for i = 1, #found, 2 do set_job_back(found[i]) end
  if #found < 2 * limit then return redis.call('HDEL', key('pulse'), index) end
  redis.call('HSET', key('pulse'), index, math.max(tonumber(from) + 1, tonumber(found[#found])))
end

set_jobs_back('deadlines')
set_jobs_back('delayed')

local looks = limit  -- at jobs whose results may have to be assembled
for _, id in ipairs(ripe('deadlines', now)) do
  if looks < 1 then break end
  local job = fields_of(id, 'state', 'retention_ms', 'offset')
  looks = looks - looks_for(job)
  if job.state == 'queued' or job.state == 'delayed' then  -- a running job's own worker ends it
    end_unattended(id, 'expired', 'expired', '', job.retention_ms, now)
    counts.expired = counts.expired + 1
  end
  redis.call('ZREM', key('deadlines'), id)
end

for _, id in ipairs(ripe('delayed', now)) do
  local job = fields_of(id, 'state', unpack(QUEUE_FIELDS))
  if job.state == 'delayed' then
    enter_lane(id, job)
    counts.promoted = counts.promoted + 1
  end
  leave_delayed(id, job.class, job.tenant)
end

-- Correct times from when Redis's clock was ahead: no lease ends, and no worker was heard from, later than `latest`.
local function set_back(index, latest)
  local ahead = redis.call('ZRANGEBYSCORE', key(index), string.format('(%d', latest), '+inf', 'LIMIT', 0, limit)
  for _, member in ipairs(ahead) do redis.call('ZADD', key(index), 'XX', latest, member) end
end

-- A shorter lease counts once no worker has reported the longer one for a while.
local longest_ms = lease_ms
if lease_ms < tonumber(pulse.lease_ms or 0) and math.abs(now - tonumber(pulse.lease_at)) < 2 * pulse.lease_ms then
  longest_ms = tonumber(pulse.lease_ms)
else
  redis.call('HSET', key('pulse'), 'lease_ms', lease_ms, 'lease_at', now)
end
set_back('leases', now + longest_ms)
set_back('workers', now)

-- While Redis is away or stalled, no worker can renew a lease. Upkeep is done several times per lease; if it was not,
-- all workers get the time to report again before their silence is taken for death.
local function all_were_silent()
  local silent_ms = now - tonumber(pulse.at or now)
  local spare_until = silent_ms > lease_ms * 7 / 8 and now + lease_ms
    or believed(pulse.spare_until, now + longest_ms) or 0
  redis.call('HSET', key('pulse'), 'at', now, 'spare_until', spare_until)
  return now < spare_until
end

local spared = all_were_silent()
local lapsed = spared and {} or ripe('leases', now)
looks = limit
for _, id in ipairs(lapsed) do
  if looks < 1 then break end
  local outcome, took =
    take_back(id, false, 'fell silent', suspect_margin, dead_retention_ms, most_attempts, now)
  looks = looks - (took or 1)
  if outcome then counts[outcome] = counts[outcome] + 1 end
end

for _, worker in ipairs(ripe('workers', now - worker_silence_ms)) do
  forget_worker(worker)
  counts.workers = counts.workers + 1
end
for _, letter in ipairs(redis.call('XRANGE', key('dead'), '-', (now - dead_retention_ms) .. '-0', 'COUNT', limit)) do
  redis.call('XDEL', key('dead'), letter[1])
end
for _, lane in ipairs(redis.call('SRANDMEMBER', key('parked'), limit)) do
  unpark(string.match(lane, '^(%l+):(.+)$'))
end

-- Continue a job with tokens whose model no worker has any more, in the way that the operator has chosen.
local function let_go(id, kind)
  if on_model_change == 'fail' then
    local error = '{"code":"model_changed","message":"the model that made its tokens is no longer served"}'
    return end_unattended(id, 'failed', 'error', error, retention_of(id), now)
  end
  if on_model_change == 'restart' then
    start_over(id)
    if kind == 'suspects' then redis.call('HSET', key('job', id), 'suspect', suspect_margin) end
  else
    redis.call('HDEL', key('job', id), 'fingerprint')
    redis.call('HSET', key('job', id), 'mixed', 1)
  end
  requeue(id, kind)
end

local function let_all_go(stream, kind)
  while looks >= 1 do
    local entry_id, entry = peek(stream)
    if not entry_id then return end
    local job = fields_of(entry.job or '', 'state', 'stream', 'entry', 'offset')
    looks = looks - (on_model_change == 'fail' and looks_for(job) or 1)  -- failing reads the log
    if job.state == 'queued' and job.stream == stream and job.entry == entry_id then
      let_go(entry.job, kind)
      counts.model_changed = counts.model_changed + 1
    else
      take(stream)
      drop(stream, entry_id)
    end
  end
end

local MOST_PAGES, MOST_MIXED = 30, 5  -- of the list of jobs; where only some are gone, each job is looked at

-- Jobs whose records are gone leave the list of jobs, page by page from where the last call stopped.
local function forget_gone()
  local from, mixed = pulse.jobs or '-inf', 0
  for _ = 1, MOST_PAGES do
    local page, keys, gone = redis.call('ZRANGEBYSCORE', key('jobs'), from, '+inf', 'LIMIT', 0, limit), {}, {}
    for i, id in ipairs(page) do keys[i] = key('job', id) end
    local there = #page > 0 and redis.call('EXISTS', unpack(keys)) or 0
    for i, id in ipairs(page) do
      if there == 0 or (there < #page and redis.call('EXISTS', keys[i]) == 0) then gone[#gone + 1] = id end
    end
    local last = #page > 0 and redis.call('ZSCORE', key('jobs'), page[#page])
    if gone[1] then redis.call('ZREM', key('jobs'), unpack(gone)) end
    if #page < limit then return redis.call('HDEL', key('pulse'), 'jobs') end
    if there == #page then mixed = MOST_MIXED end  -- nothing is gone here
    if there > 0 then
      from = last == from and '(' .. last or last  -- more jobs came in this millisecond than fit a page
      mixed = mixed + 1
    end
    if mixed >= MOST_MIXED then break end
  end
  redis.call('HSET', key('pulse'), 'jobs', from)
end

forget_gone()

-- No worker was heard from later than now: Redis's clock was ahead.
for _, readers in ipairs(redis.call('ZRANGEBYSCORE', key('readers'), '(' .. now, '+inf', 'LIMIT', 0, limit)) do
  redis.call('ZADD', key('readers'), now, readers)
end

-- Streams of `retry` and `suspects` whose readers have not been heard from for `model_grace_ms`, and their jobs.
looks = limit
for _, readers in ipairs((spared or on_model_change == '') and {} or ripe('readers', now - model_grace_ms)) do
  for _, kind in ipairs({'retry', 'suspects'}) do
    local stream = key(kind, readers)
    if string.match(readers, ':%x+$') then let_all_go(stream, kind) end
  end
  if redis.call('EXISTS', key('retry', readers), key('suspects', readers)) == 0 then
    redis.call('ZREM', key('readers'), readers)
  end
end

-- When nothing waits or runs, it no longer matters how much each tenant was served.
local idle = redis.call('EXISTS', key('leases')) == 0
local queued = 0
for _, readers in ipairs(redis.call('ZRANGE', key('readers'), 0, limit - 1)) do
  queued = queued + depth(key('retry', readers)) + depth(key('suspects', readers))
end
for _, class in ipairs(CLASSES) do
  if idle and redis.call('EXISTS', key('backlog', class)) == 0 then
    forget_ahead(class, redis.call('ZRANGE', key('ahead', class), 0, limit - 1))
  end
  queued = queued + depth(key('retry', class)) + depth(key('suspects', class))
  for _, tenant in ipairs(redis.call('ZRANGE', key('backlog', class), 0, limit - 1)) do
    queued = queued + depth(key('lane', class, tenant))
  end
end
return {
  counts.promoted, counts.expired, counts.recovered, counts.dead, counts.workers, counts.model_changed, queued,
  unattended,
}
