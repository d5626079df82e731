-- The moves of the state machine.
-- uses: queue workers

local QUEUE_FIELDS = {'class', 'tenant', 'prompt_tokens', 'prompt_bytes', 'max_tokens', 'v'}

-- Each move has one write that decides it, that of the job's state. What makes the job findable is written before it,
-- what becomes obsolete is removed after it. So an interrupted move is made, or completed, when it is asked for again
-- or by upkeep. An entry of a queue stream counts only if its job's record names it.

-- Put a job with these fields into its lane; further fields are written with its state.
local function enter_lane(id, job, ...)
  local lane = key('lane', job.class, job.tenant)
  local entry = push(lane, id, job.prompt_tokens, job.prompt_bytes, job.max_tokens, job.v)
  join_backlog(job.class, job.tenant)
  redis.call('HSET', key('job', id), 'state', 'queued', 'stream', lane, 'entry', entry, ...)
  count_bytes(job.class, job.tenant, redis.call('HSTRLEN', key('job', id), 'spec'))
  ring()
end

local PLACE = {'state', 'stream', 'entry', 'class', 'tenant'}

-- Remove the job from the queue stream that its record named before the move, if any.
local function leave_queue(id, before)
  if not (before.stream and before.entry) then return end
  drop(before.stream, before.entry)
  if before.state == 'queued' and before.stream == key('lane', before.class, before.tenant) then
    count_bytes(before.class, before.tenant, -redis.call('HSTRLEN', key('job', id), 'spec'))
  end
end

-- The worker no longer holds the job. Once it holds none, it doesn't matter what it had beside the last one.
local function unlist(id, worker)
  local held = key('held', worker)
  redis.call('ZREM', held, id)
  if redis.call('ZCARD', held) == 1 then redis.call('ZREM', held, ACCOMPANIED) end
end

-- A running job leaves its worker: it has no lease, and its tenant may run another.
local function stop_running(id, tenant, worker)
  if worker then unlist(id, worker) end
  if redis.call('SREM', key('running', tenant), id) == 1 then
    for _, class in ipairs(CLASSES) do unpark(class, tenant) end
  end
  redis.call('ZREM', key('leases'), id)
end

-- Put a job that has run back with its progress, ahead of the lanes of its class, into a stream of `retry` or
-- `suspects`. If only some workers may take it, no others read that stream, so it is in no other job's way.
-- Further fields are written with its state.
local function requeue(id, kind, ...)
  local before = fields_of(id, unpack(PLACE))
  settle(id)
  local job = fields_of(id, 'deadline_ms', 'worker', 'fingerprint', 'offset', unpack(QUEUE_FIELDS))
  local readers = readers_of(job)
  local stream = key(kind, readers)
  if readers ~= job.class then redis.call('ZADD', key('readers'), 'NX', now_ms(), readers) end
  if job.deadline_ms then redis.call('ZADD', key('deadlines'), job.deadline_ms, id) end  -- it may have passed
  local entry = push(stream, id, job.prompt_tokens, job.prompt_bytes, job.max_tokens, job.v or 1)
  local waits = before.state == 'queued'  -- then it is found by its old entry until it has the new one
  if not waits then leave_queue(id, before) end
  redis.call('HSET', key('job', id), 'state', 'queued', 'stream', stream, 'entry', entry, ...)
  if waits then leave_queue(id, before) end
  stop_running(id, job.tenant, job.worker)
  redis.call('HDEL', key('job', id), 'fence', 'worker')
  ring()
end
