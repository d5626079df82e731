-- Shared by every script: names, time, and the moves of the job state machine.
-- Rules: KEYS[1] is the tag's prefix and every key is derived from it (one Redis Cluster slot); time is
-- Redis's own; a script first decides, then writes, so that an error never leaves half a move behind.

local function key(...) return KEYS[1] .. ':' .. table.concat({...}, ':') end

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Redis's clock may have been ahead for a while, as after a failover to a machine where it is wrong. No moment is
-- believed that lies further ahead than those of its kind ever do; nil for one that does.
local function believed(moment, latest)
  moment = tonumber(moment)
  return moment and moment <= latest and moment or nil
end

-- The longest lease that any worker of the queue has, who all say so with their upkeep.
local function longest_lease(lease_ms)
  return math.max(lease_ms, tonumber(redis.call('HGET', key('pulse'), 'lease_ms') or 0))
end

local GROUP, CONSUMER = 'workers', 'workers'  -- one consumer: leases say who runs a job, not the group
local MAX_BELLS = 64                          -- more wake-ups than this at once tell idle workers nothing new

local CLASSES = {'interactive', 'standard', 'batch'}  -- most urgent first

local IS_CLASS = {interactive = true, standard = true, batch = true}

local TERMINAL = {succeeded = true, failed = true, cancelled = true, expired = true}

-- Redis refuses a script's first write when memory is full, unless that write can't grow memory. Moves that
-- let work go on and memory shrink begin with one that can't, so that running jobs finish on a full Redis.
local function allow_when_full() redis.call('DEL', key('full')) end

-- The record's fields that scripts count with. Where somebody else wrote no number there, or took one away that every
-- job has, this stands for it: the damage of one job stops nobody's script.
local NUMBERS = {v = '1', prompt_tokens = '0', prompt_bytes = '0', max_tokens = '1', max_attempts = '3',
  retention_ms = '86400000', offset = 'damaged'}
for _, name in ipairs({'attempts', 'suspect', 'epoch', 'max_runtime_ms', 'deadline_ms', 'enqueued_ms', 'passed',
  'charged'}) do
  NUMBERS[name] = false
end

local function is_count(value) return value == '0' or #value < 16 and string.match(value, '^[1-9]%d*$') end

-- A record that is no hash is no record.
local function fields_of(id, ...)
  local names, values, out = {...}, redis.pcall('HMGET', key('job', id), ...), {}
  if values.err then return out end
  local known = false
  for i, name in ipairs(names) do
    out[name] = values[i] or nil
    known = known or out[name] ~= nil
  end
  for _, name in ipairs(known and names or {}) do
    local value, instead = out[name], NUMBERS[name]
    if name == 'class' then
      out.class = IS_CLASS[value] and value or 'standard'  -- or nobody would serve it
    elseif instead ~= nil and value and not is_count(value) or instead and not value and name ~= 'offset' then
      out[name] = instead or nil
    end
  end
  return out
end

local function to_fields(flat)
  local out = {}
  for i = 1, #flat, 2 do out[flat[i]] = flat[i + 1] end
  return out
end

local function ring()
  if redis.call('LLEN', key('bell')) < MAX_BELLS then redis.call('LPUSH', key('bell'), 1) end
end

-- Queue streams ---------------------------------------------------------------------------------------

-- Up to which entry all have been taken; nil when there is no stream.
local function taken_up_to(stream)
  if redis.call('EXISTS', stream) == 0 then return nil end
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local info = to_fields(group)
    if info['name'] == GROUP then return info['last-delivered-id'] end
  end
  redis.call('XGROUP', 'CREATE', stream, GROUP, '0')
  return '0-0'
end

-- The first entry that nobody has taken yet: id, fields; nil when there is none.
local function peek(stream)
  local last = taken_up_to(stream)
  if not last then return nil end
  local found = redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', 1)[1]
  if found then return found[1], to_fields(found[2]) end
end

local function take(stream)
  redis.call('XREADGROUP', 'GROUP', GROUP, CONSUMER, 'COUNT', 1, 'STREAMS', stream, '>')
end

local function drop(stream, entry)
  redis.pcall('XACK', stream, GROUP, entry)  -- a record may name no stream, or no entry
  redis.pcall('XDEL', stream, entry)
  if redis.call('EXISTS', stream) == 1 and redis.call('XLEN', stream) == 0 then redis.call('DEL', stream) end
end

local function push(stream, id, prompt_tokens, prompt_bytes, max_tokens, v)
  if redis.call('EXISTS', stream) == 0 then
    redis.call('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
  end
  return redis.call('XADD', stream, '*', 'job', id, 'prompt_tokens', prompt_tokens,
    'prompt_bytes', prompt_bytes, 'max_tokens', max_tokens, 'v', v)
end

local function depth(stream)
  if redis.call('EXISTS', stream) == 0 then return 0 end
  local pending = 0
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local info = to_fields(group)
    if info['name'] == GROUP then pending = info['pending'] end
  end
  return redis.call('XLEN', stream) - pending
end

local TOKENS_PER_BYTE = 0.25  -- of a prompt that is text: what it is charged with before anybody counts
local CHARGED_AT_ONCE = 256   -- tokens of output for which a job is charged in advance
local MAX_AHEAD = 1000        -- tenants a class without waiting jobs of whom it is known how far they are ahead
local FORGOTTEN = 16          -- of them in one go, when they are ahead no more or there are too many

local function virtual_time(class) return tonumber(redis.call('HGET', key('served', class), '*') or 0) end

-- Fair order: a tenant that comes back starts at the class's virtual time, never behind it, so that an idle
-- past earns no burst (virtual token counter, arXiv 2401.00588).
local function join_backlog(class, tenant)
  if redis.call('ZSCORE', key('backlog', class), tenant) then return end
  local ahead, served = key('ahead', class), key('served', class)
  local own = redis.call('ZSCORE', ahead, tenant) or redis.call('HGET', served, tenant) or 0
  redis.call('ZADD', key('backlog', class), math.max(tonumber(own), virtual_time(class)), tenant)
  redis.call('ZREM', ahead, tenant)
  redis.call('HDEL', served, tenant)  -- where workers of before keep it
end

local function forget_ahead(class, tenants)
  if tenants[1] then redis.call('ZREM', key('ahead', class), unpack(tenants)) end
end

local function remember_ahead(class, tenant, score)
  local ahead, reached = key('ahead', class), virtual_time(class)
  redis.call('ZADD', ahead, score, tenant)
  forget_ahead(class, redis.call('ZRANGEBYSCORE', ahead, '-inf', reached, 'LIMIT', 0, FORGOTTEN))
  if redis.call('ZCARD', ahead) > MAX_AHEAD then
    forget_ahead(class, redis.call('ZRANGE', ahead, 0, FORGOTTEN - 1))
  end
end

local function leave_backlog(class, tenant)
  local score = redis.call('ZSCORE', key('backlog', class), tenant)
  if not score then return end
  redis.call('ZREM', key('backlog', class), tenant)
  remember_ahead(class, tenant, score)
end

-- What the tenant may do, from the copy of the policies that workers keep here; nothing is limited without one.
local function policy_of(tenant)
  local found = redis.call('HMGET', key('tenants'), tenant, '*')
  local fine, policy = pcall(cjson.decode, found[1] or found[2] or '{}')
  return fine and type(policy) == 'table' and policy or {}
end

-- Moves a tenant's place in the fair order; back, too, when it was charged too much.
local function charge(class, tenant, tokens)
  local virtual = tokens / (policy_of(tenant).weight or 1)
  if redis.call('ZSCORE', key('backlog', class), tenant) then
    redis.call('ZINCRBY', key('backlog', class), virtual, tenant)
  else
    local own = tonumber(redis.call('ZSCORE', key('ahead', class), tenant) or virtual_time(class))
    remember_ahead(class, tenant, own + virtual)
  end
end

local function number(value) return tonumber(value or 0) or 0 end

local function prompt_of(job)
  local tokens = number(job.prompt_tokens)
  return tokens > 0 and tokens or math.ceil(number(job.prompt_bytes) * TOKENS_PER_BYTE)
end

-- A job is charged with an estimate when its tenant's turn comes, and with what it came to when it leaves a worker.
local function settle(id, refused)
  local job = fields_of(id, 'class', 'tenant', 'charged', 'prompt_tokens', 'prompt_bytes', 'offset', 'started_ms')
  if not (job.tenant and job.charged) then return end
  local served = job.started_ms and not refused and prompt_of(job) + number(job.offset) or 0
  if served == tonumber(job.charged) then return end
  charge(job.class, job.tenant, served - tonumber(job.charged))
  redis.call('HSET', key('job', id), 'charged', served)
end

-- A tenant with as many running jobs as it may have waits outside the fair order until one of them leaves; its
-- jobs would have to be passed over at each claim otherwise.
local function unpark(class, tenant)
  if redis.call('EXISTS', key('lane', class, tenant)) == 1 then join_backlog(class, tenant) end
  if redis.call('SREM', key('parked'), class .. ':' .. tenant) == 1 then ring() end
end

local function count_bytes(class, tenant, delta)
  if delta == 0 then return end  -- of an empty spec, and minus nothing is "-0" to Redis, which is no integer
  local field = class .. ':' .. tenant
  if redis.call('HINCRBY', key('queued_bytes'), field, delta) <= 0 then
    redis.call('HDEL', key('queued_bytes'), field)
  end
end

local function change_delayed_bytes(class, tenant, delta)
  if delta == 0 then delta = 0 end  -- minus nothing is no integer to Redis
  local field = class .. ':' .. tenant
  redis.call('HINCRBY', key('delayed_bytes'), field, delta)
  if redis.call('EXISTS', key('delayed_jobs', class, tenant)) == 0 then redis.call('HDEL', key('delayed_bytes'), field) end
end

local function delay(id, class, tenant, due_ms, size)
  redis.call('ZADD', key('delayed'), due_ms, id)
  redis.call('ZADD', key('delayed_jobs', class, tenant), due_ms, id)
  change_delayed_bytes(class, tenant, size)
end

-- A delayed job is due, or has ended; a no-op for any other.
local function leave_delayed(id, class, tenant)
  if class and tenant and redis.call('ZREM', key('delayed_jobs', class, tenant), id) == 1 then
    change_delayed_bytes(class, tenant, -redis.call('HSTRLEN', key('job', id), 'spec'))
  end
  redis.call('ZREM', key('delayed'), id)
end

-- Moves of the state machine --------------------------------------------------------------------------

local QUEUE_FIELDS = {'class', 'tenant', 'prompt_tokens', 'prompt_bytes', 'max_tokens', 'v'}

-- The fingerprint of the model that made the job's tokens; nil while it has none.
local function model_of(job)
  return (tonumber(job.offset) or 0) > 0 and string.match(job.fingerprint or '', '^%x+$') or nil
end

-- Who may take a job that has run: `<class>`, then `v<version>` and the model, as far as either limits it.
local function readers_of(job)
  local version = (tonumber(job.v) or 1) > 1 and ':v' .. job.v or ''
  local model = model_of(job)
  return job.class .. version .. (model and ':' .. model or '')
end

-- The same from a worker's side: all that it reads of a class, jobs with tokens of its model first.
local function readable(class, max_v, fingerprint)
  local found = {}
  for v = 1, max_v do
    for _, offset in ipairs({fingerprint ~= '' and 1 or 0, 0}) do
      found[#found + 1] = readers_of({class = class, v = v, offset = offset, fingerprint = fingerprint})
    end
  end
  return found
end

-- Each move has one write that decides it: that of the job's state. What it needs to be found comes before, what is
-- over after it, so that a move that was interrupted is made, or made complete, by whoever asks for it again, or by
-- upkeep. An entry of a queue stream counts only when its job's record names it.

-- A job with the fields given comes into its lane; further fields are written with its state.
local function enter_lane(id, job, ...)
  local lane = key('lane', job.class, job.tenant)
  local entry = push(lane, id, job.prompt_tokens, job.prompt_bytes, job.max_tokens, job.v)
  join_backlog(job.class, job.tenant)
  redis.call('HSET', key('job', id), 'state', 'queued', 'stream', lane, 'entry', entry, ...)
  count_bytes(job.class, job.tenant, redis.call('HSTRLEN', key('job', id), 'spec'))
  ring()
end

local PLACE = {'state', 'stream', 'entry', 'class', 'tenant'}

-- Out of the queue stream that held the job, by what its record said before the move; a no-op for one in none.
local function leave_queue(id, before)
  if not (before.stream and before.entry) then return end
  drop(before.stream, before.entry)
  if before.state == 'queued' and before.stream == key('lane', before.class, before.tenant) then
    count_bytes(before.class, before.tenant, -redis.call('HSTRLEN', key('job', id), 'spec'))
  end
end

local HELD_MS = 60 * 1000  -- what a worker holds is listed for so long after its last lease
local ACCOMPANIED = '*'  -- among the jobs that a worker holds: it has had others, which are not listed (any more)

-- The worker does not hold the job any more; what it had beside its last one is of no interest.
local function unlist(id, worker)
  local held = key('held', worker)
  redis.call('ZREM', held, id)
  if redis.call('ZCARD', held) == 1 then redis.call('ZREM', held, ACCOMPANIED) end
end

-- A running job leaves its worker: no lease, and room for another of its tenant's.
local function stop_running(id, tenant, worker)
  if worker then unlist(id, worker) end
  if redis.call('SREM', key('running', tenant), id) == 1 then
    for _, class in ipairs(CLASSES) do unpark(class, tenant) end
  end
  redis.call('ZREM', key('leases'), id)
end

-- A job that has run goes back with its progress, ahead of the lanes of its class: to a stream of `retry` or
-- `suspects`. One that only some workers may take goes to a stream that no other reads, and is in nobody's way.
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

-- The events of a job's log; none when the key was damaged from outside.
local function log_of(id)
  local log, entries = {}, redis.pcall('XRANGE', key('out', id), '-', '+')
  if entries.err then return log end
  for _, entry in ipairs(entries) do
    local fields = entry[2]
    log[#log + 1] = fields[1] == 'event' and fields[2] or to_fields(fields).event
  end
  return log
end

-- Whether the entry is in the log already: an earlier try was interrupted.
local function is_in_log(id, entry_id, payload)
  local found = redis.pcall('XRANGE', key('out', id), entry_id, entry_id)
  return not found.err and found[1] ~= nil and to_fields(found[1][2]).event == payload
end

-- Adds to the log first, so that the live never see what a reader of the log won't. False for a damaged log.
local function publish(id, entry_id, payload)
  local added = redis.pcall('XADD', key('out', id), entry_id, 'event', payload)
  if type(added) == 'table' and added.err and not is_in_log(id, entry_id, payload) then return false end
  redis.call('PUBLISH', key('chan', id), payload)
  return true
end

-- From its first token on a job belongs to the model that made it.
local function note_first_token(id, now)
  local model = fields_of(id, 'worker_fingerprint').worker_fingerprint
  redis.call('HSET', key('job', id), 'first_token_ms', now)
  if model then
    redis.call('HSET', key('job', id), 'fingerprint', model)
  else
    redis.call('HDEL', key('job', id), 'fingerprint')
  end
end

-- Forgets all tokens of a job that waits. Who reads it live is sent a chunk that follows on nothing, and so reads
-- the log again and finds it begun from scratch.
local function start_over(id)
  local restarts = (tonumber(fields_of(id, 'restarts').restarts) or 0) + 1
  redis.call('HSET', key('job', id), 'restarts', restarts)
  redis.call('DEL', key('out', id))
  redis.call('HDEL', key('job', id), 'offset', 'first_token_ms', 'fingerprint', 'mixed')
  redis.call('PUBLISH', key('chan', id), '{"offset":9007199254740991,"text":"","restarts":' .. restarts .. '}')
end

-- Writes tokens from..to of a job's log. Gives nil, also for a chunk that is there already (the caller's last
-- reply was lost), or the refusal: the log does not reach `from`, or ends inside the chunk, or is damaged.
local function append(id, stored_offset, from, to, payload, now)
  local offset = tonumber(stored_offset or 0)
  if not offset then return 'damaged' end
  if payload == '' or to <= offset then return nil end
  if from ~= offset then return 'behind ' .. offset end
  if not publish(id, to .. '-0', payload) then return 'damaged' end
  if offset == 0 then note_first_token(id, now) end
  redis.call('HSET', key('job', id), 'offset', to)
end

local function note_pace(class, now)
  local pace = to_fields(redis.call('HGETALL', key('pace', class)))
  local interval = pace.at and math.max(0, math.min(now - tonumber(pace.at), 60000)) or 1000
  local mean = pace.mean and (0.9 * tonumber(pace.mean) + 0.1 * interval) or interval
  redis.call('HSET', key('pace', class), 'at', now, 'mean', string.format('%.3f', mean))
end

local function notify(id, events, event, now)
  if events and string.find(',' .. events .. ',', ',' .. event .. ',', 1, true) then
    redis.call('XADD', key('outbox'), '*', 'job', id, 'event', event, 'at_ms', now)
    redis.pcall('HINCRBY', key('job', id), 'effects', 1)
  end
end

local EFFECTS_MS = 7 * 86400 * 1000  -- how long a job's record waits at most for what is to follow from its end
local LONGEST_MS = 1e12

local function keep(id, ms)
  local kept_ms = math.min(LONGEST_MS, math.max(1, math.floor(ms)))
  redis.call('PEXPIRE', key('job', id), kept_ms)
  redis.call('PEXPIRE', key('out', id), kept_ms)
end

-- How long a job that has ended is kept: its retention, or longer while something is still to follow from it. What
-- was damaged from outside is no reason to keep it for ever.
local function keep_ended(id, retention_ms, now)
  local kept_ms = tonumber(retention_ms) or EFFECTS_MS
  if (tonumber(fields_of(id, 'effects').effects) or 0) > 0 then
    redis.pcall('HSET', key('job', id), 'expires_ms', string.format('%.0f', now + kept_ms))
    kept_ms = math.max(kept_ms, EFFECTS_MS)
  end
  keep(id, kept_ms)
end

-- An outbox entry has been seen to and goes; with the last one of an ended job its record falls to its retention.
local function drop_entry(entry)
  local found = redis.call('XRANGE', key('outbox'), entry, entry)[1]
  redis.call('XACK', key('outbox'), 'relay', entry)
  if not found then return end
  redis.call('XDEL', key('outbox'), entry)
  local id = to_fields(found[2]).job or ''
  local job = fields_of(id, 'effects', 'expires_ms')
  local effects, expires_ms = tonumber(job.effects), tonumber(job.expires_ms)
  if not effects then return end  -- an older worker counts none
  if effects > 1 then return redis.pcall('HINCRBY', key('job', id), 'effects', -1) end
  redis.call('HDEL', key('job', id), 'effects', 'expires_ms')
  if expires_ms then keep(id, expires_ms - now_ms()) end  -- else it has not ended
end

-- Text, token ids and their number of a log whose chunks are all as workers write them; nil of any other. Nothing is
-- decoded that need not be: a log may be as long as the model's context.
local function output_as_written(log)
  local text, ids, count = {}, {}, 0
  for i, event in ipairs(log) do
    local piece, tokens = string.match(event, '^{"offset":%d+,"text":"(.-)","token_ids":%[([%d,]+)%]')
    if not piece then return nil end
    text[i], ids[i] = piece, tokens
    count = count + 1
    if string.find(tokens, ',', 1, true) then count = count + select(2, string.gsub(tokens, ',', '')) end
  end
  local whole = '"' .. table.concat(text) .. '"'
  if pcall(cjson.decode, '[' .. whole .. ']') then return whole, table.concat(ids, ','), count end
end

local function output_as_it_can_be_read(log)
  local text, tokens = {}, {}
  for _, event in ipairs(log) do
    pcall(function()
      local chunk = cjson.decode(event)
      text[#text + 1] = (chunk.text or '') .. ''
      for _, token in ipairs(chunk.token_ids or {}) do tokens[#tokens + 1] = string.format('%d', token) end
    end)
  end
  return cjson.encode(table.concat(text)), table.concat(tokens, ','), #tokens
end

-- What a job that ends without a worker has to show: the text and tokens of its log, as far as it can be read.
local function output_so_far(id, finish_reason)
  local log = log_of(id)
  local text, ids, count = output_as_written(log)
  if not text then text, ids, count = output_as_it_can_be_read(log) end
  return '{"text":' .. text .. ',"token_ids":[' .. ids .. '],"finish_reason":"' .. finish_reason
    .. '","usage":{"completion_tokens":' .. count .. '}}'
end

-- A job that has ended is nowhere any more; `before` is what its record said when it had not.
local function leave_all(id, before)
  leave_queue(id, before)
  stop_running(id, before.tenant, before.worker)
  leave_delayed(id, before.class, before.tenant)
  redis.call('ZREM', key('deadlines'), id)
  redis.call('HDEL', key('job', id), 'stream', 'entry', 'fence', 'cancel', 'suspect')
end

-- What an end that was interrupted has left.
local function complete_end(id) leave_all(id, fields_of(id, 'worker', unpack(PLACE))) end

-- The one way into a terminal state: result, end marker, acknowledgement, lease, outbox and retention. Further fields
-- are written with the state.
local function end_job(id, state, output, error, end_payload, retention_ms, now, ...)
  local job = fields_of(id, 'offset', 'events', 'worker', unpack(PLACE))
  settle(id, state == 'failed' and not job.offset)
  if not publish(id, number(job.offset) .. '-1', end_payload) then  -- a damaged log can't keep a job from ending
    redis.call('PUBLISH', key('chan', id), end_payload)
  end
  notify(id, job.events, 'job.' .. state, now)
  keep_ended(id, retention_ms, now)
  if error ~= '' then redis.call('HSET', key('job', id), 'error', error) end
  redis.call('HSET', key('job', id), 'state', state, 'result', output, 'finished_ms', now, ...)
  leave_all(id, job)
  note_pace(job.class, now)
end

-- The same for a job that ends where no worker has its text: cancelled, expired or dead in the queue.
local function end_unattended(id, state, reason, error, retention_ms, now, ...)
  local offset = number(fields_of(id, 'offset').offset)
  local end_payload = '{"offset":' .. offset .. ',"end":"' .. state .. '","finish_reason":"' .. reason .. '"'
    .. (error ~= '' and (',"error":' .. error) or '') .. '}'
  end_job(id, state, output_so_far(id, reason), error, end_payload, retention_ms, now, ...)
end

-- The worker that tries suspects, or was asked to.
local function who_tries(latest)
  local worker, until_ms = string.match(redis.call('GET', key('trial')) or '', '^(%S+) (%d+)$')
  return believed(until_ms, latest or math.huge) and worker
end

local MIN_OTHERS_MS, MAX_OTHERS_MS = 2 * 1000, 60 * 1000

-- A suspect that ends its worker costs the others' jobs time. Before the next one is tried, they have as long as
-- nobody was there for them: however many suspects there are, jobs go on beside their trials.
local function others_come_first(now)
  local known = redis.call('HMGET', key('pulse'), 'trial_died_ms', 'others_until_ms')
  if not known[1] then return (believed(known[2], now + MAX_OTHERS_MS) or 0) > now end
  local until_ms = now + math.max(MIN_OTHERS_MS, math.min(MAX_OTHERS_MS, now - tonumber(known[1])))
  redis.call('HDEL', key('pulse'), 'trial_died_ms')
  redis.call('HSET', key('pulse'), 'others_until_ms', until_ms)
  return true
end

local MAX_DEATHS = 32   -- remembered of a job
local MAX_DOUBLINGS = 3  -- of the margin: a job whose log lags far behind its tokens is met with in a few rounds

-- Adds a death to a job's history, which a damaged record begins again. Gives the JSON and the number of deaths.
local function remember(history, death)
  local fine, deaths = pcall(cjson.decode, history or '[]')
  if not fine or type(deaths) ~= 'table' then deaths = {} end
  while #deaths >= MAX_DEATHS do table.remove(deaths, 1) end
  deaths[#deaths + 1] = death
  return cjson.encode(deaths), #deaths
end

-- Whether nothing but this job can have ended its worker. A suspect runs alone until its log is past what makes it
-- one; of any other job it is known by what the worker holds. Those of a worker whose list is gone had company.
local function was_alone(id, job)
  if job.suspect then return true end
  local held = key('held', job.worker or '')
  return redis.call('ZCARD', held) == 1 and redis.call('ZSCORE', held, id) ~= false
end

-- A running job whose worker is dead. Where it was alone there, that is an attempt of it; in company nobody knows
-- who it was, and nobody pays for it. It goes on elsewhere, as a suspect, which is tried alone, when it may have been
-- the cause: when its worker's end is blamed on what it ran, or when this is not the first worker that it lost.
local function take_back(id, blamed, how, suspect_margin, dead_retention_ms, most_attempts, now)
  local job = fields_of(id, 'state', 'attempts', 'max_attempts', 'offset', 'worker', 'cancel', 'retention_ms',
    'history', 'suspect')
  if job.state ~= 'running' then
    if TERMINAL[job.state] then complete_end(id) end
    redis.call('ZREM', key('leases'), id)
    return nil
  end
  local alone, worker, offset = was_alone(id, job), job.worker or '', number(job.offset)
  local history, deaths =
    remember(job.history, {worker = worker, at_ms = now, how = how, offset = offset, alone = alone})
  local attempts = tonumber(job.attempts or 0) + (alone and 1 or 0)
  if redis.call('ZCARD', key('held', worker)) > 1 then redis.call('ZADD', key('held', worker), 0, ACCOMPANIED) end
  if job.suspect then
    redis.call('HSET', key('pulse'), 'trial_died_ms', now)
    if who_tries() == worker then redis.call('DEL', key('trial')) end
  end
  if job.cancel then
    end_unattended(id, 'cancelled', 'cancelled', '', job.retention_ms, now, 'attempts', attempts, 'history', history)
    return 'cancelled'
  end
  if alone and attempts >= math.min(tonumber(job.max_attempts), most_attempts) then
    local message = 'its worker died ' .. attempts .. ' times over it; see the dead letters'
    redis.call('XADD', key('dead'), '*', 'job', id, 'cause', 'crashed', 'at_ms', now,
      'attempts', attempts, 'worker', worker, 'offset', offset, 'history', history)
    end_unattended(id, 'failed', 'error', '{"code":"crashed","message":"' .. message .. '"}',
      dead_retention_ms, now, 'attempts', attempts, 'history', history)
    return 'dead'
  end
  if blamed or deaths > 1 then
    local margin = suspect_margin * 2 ^ math.max(0, math.min(deaths - 2, MAX_DOUBLINGS))
    requeue(id, 'suspects', 'attempts', attempts, 'history', history, 'suspect', offset + margin)
  else
    requeue(id, 'retry', 'attempts', attempts, 'history', history)
  end
  return 'recovered'
end

local LOG_LOOK = 512  -- tokens of a log whose result is put together cost a call as much as one look more

local function looks_for(job) return 1 + math.floor(number(job.offset) / LOG_LOOK) end

local function retention_of(id) return fields_of(id, 'state', 'retention_ms').retention_ms end

local function due(job, now) return job.deadline_ms and tonumber(job.deadline_ms) <= now end

local MAX_LARGER = 32  -- workers of other models that are looked past

-- Whether one job can come to more than `capacity` tokens at another living worker, of the model that it belongs to.
local function is_larger_elsewhere(class, model, capacity)
  local rank = -1
  for _ = 1, MAX_LARGER do
    local head = redis.call('ZRANGE', key('capacity', class), rank, rank, 'WITHSCORES')
    if not head[1] or tonumber(head[2]) <= capacity then return false end
    if not redis.call('ZSCORE', key('workers'), head[1]) then
      redis.call('ZREM', key('capacity', class), head[1])
    elseif model and redis.call('HGET', key('worker', head[1]), 'fingerprint') ~= model then
      rank = rank - 1
    else
      return true
    end
  end
  return false
end

local function forget_worker(worker)
  redis.call('ZREM', key('workers'), worker)
  for _, class in ipairs(CLASSES) do redis.call('ZREM', key('capacity', class), worker) end
  redis.call('DEL', key('worker', worker))
end

-- Webhook deliveries ----------------------------------------------------------------------------------

local BREAKER_FAILURES = 5                                -- in a row, and the endpoint is left alone for a while
local PAUSE_MS, MAX_PAUSE_MS = 30 * 1000, 15 * 60 * 1000  -- doubling with each further failure
local MAX_HISTORY = 32                                    -- attempts remembered of a delivery

-- Attempts that may be under way at once; one alone tries an endpoint that was left alone.
local function at_once(failures, per_endpoint) return failures >= BREAKER_FAILURES and 1 or per_endpoint end

-- In `index`, the member comes when the first of `queue` does.
local function plan(index, member, queue, not_before)
  local first = redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')[2]
  if not first then return redis.call('ZREM', index, member) end
  redis.call('ZADD', index, math.max(tonumber(first), not_before), member)
end

-- When the endpoint is to be looked at next: when its first delivery is due, it is left alone no longer, and an
-- attempt may be made (each that ends plans anew; one that never does counts as lost when its lease is over).
-- Its origin is looked at when the first of the tenant's endpoints there is, and the tenant when the first origin is.
local function plan_endpoint(tenant, endpoint, per_endpoint)
  local known = redis.call('HMGET', key('endpoint', endpoint), 'failures', 'open_until_ms')
  local at = tonumber(known[2] or 0)
  if redis.call('ZCARD', key('sending', endpoint)) >= at_once(tonumber(known[1] or 0), per_endpoint) then
    at = math.max(at, tonumber(redis.call('ZRANGE', key('sending', endpoint), 0, 0, 'WITHSCORES')[2]))
  end
  local origin = string.match(endpoint, '^%x+')
  plan(key('endpoints', tenant, origin), endpoint, key('waiting', endpoint), at)
  plan(key('due', tenant), origin, key('endpoints', tenant, origin), 0)
  plan(key('due', '*'), tenant, key('due', tenant), 0)
end
