-- Queue streams, the fair order of tenants, and delayed jobs.
-- uses: base

-- The id of the last entry that was taken; nil if there is no stream.
local function taken_up_to(stream)
  if redis.call('EXISTS', stream) == 0 then return nil end
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local info = to_fields(group)
    if info['name'] == GROUP then return info['last-delivered-id'] end
  end
  redis.call('XGROUP', 'CREATE', stream, GROUP, '0')
  return '0-0'
end

-- The id and fields of the first entry that has not been taken; nil if there is none.
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
  attempt('XACK', stream, GROUP, entry)  -- a record may name no stream, or no entry
  attempt('XDEL', stream, entry)
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

local TOKENS_PER_BYTE = 0.25  -- what a prompt given as text is charged until its tokens are counted
local CHARGED_AT_ONCE = 256   -- output tokens that a job is charged for in advance
local MAX_AHEAD = 1000        -- tenants per class without waiting jobs whose lead is remembered
local FORGOTTEN = 16          -- of these at once, when they are no longer ahead or there are too many

local function virtual_time(class) return tonumber(redis.call('HGET', key('served', class), '*') or 0) end

-- Fair order: a tenant that returns starts at the class's virtual time, never behind it, so that an idle past earns
-- no burst (virtual token counter, arXiv 2401.00588).
local function join_backlog(class, tenant)
  if redis.call('ZSCORE', key('backlog', class), tenant) then return end
  local ahead, served = key('ahead', class), key('served', class)
  local own = redis.call('ZSCORE', ahead, tenant) or redis.call('HGET', served, tenant) or 0
  redis.call('ZADD', key('backlog', class), math.max(tonumber(own), virtual_time(class)), tenant)
  redis.call('ZREM', ahead, tenant)
  redis.call('HDEL', served, tenant)  -- where older workers keep it
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

-- The tenant's policy, from the copy that workers keep here; without one, nothing is limited.
local function policy_of(tenant)
  local found = redis.call('HMGET', key('tenants'), tenant, '*')
  local fine, policy = pcall(cjson.decode, found[1] or found[2] or '{}')
  return fine and type(policy) == 'table' and policy or {}
end

-- Move a tenant's place in the fair order, also back if it was charged too much.
local function charge(class, tenant, tokens)
  local virtual = tokens / (policy_of(tenant).weight or 1)
  if redis.call('ZSCORE', key('backlog', class), tenant) then
    redis.call('ZINCRBY', key('backlog', class), virtual, tenant)
  else
    local own = tonumber(redis.call('ZSCORE', key('ahead', class), tenant) or virtual_time(class))
    remember_ahead(class, tenant, own + virtual)
  end
end

local function prompt_of(job, tokens_per_byte)
  local tokens = number(job.prompt_tokens)
  return tokens > 0 and tokens or math.ceil(number(job.prompt_bytes) * (tokens_per_byte or TOKENS_PER_BYTE))
end

-- A job is charged an estimate when its tenant's turn comes; when it leaves a worker, correct that to what it used.
local function settle(id, refused)
  local job = fields_of(id, 'class', 'tenant', 'charged', 'prompt_tokens', 'prompt_bytes', 'offset', 'started_ms')
  if not (job.tenant and job.charged) then return end
  local read = number(job.prompt_tokens) > 0 or number(job.offset) > 0  -- otherwise its prompt is only an estimate
  local served = job.started_ms and read and not refused and prompt_of(job) + number(job.offset) or 0
  if served == tonumber(job.charged) then return end
  charge(job.class, job.tenant, served - tonumber(job.charged))
  redis.call('HSET', key('job', id), 'charged', served)
end

-- A tenant with as many running jobs as it may have waits outside the fair order until one of them leaves; otherwise
-- every claim would have to pass over its jobs.
local function unpark(class, tenant)
  if redis.call('EXISTS', key('lane', class, tenant)) == 1 then join_backlog(class, tenant) end
  if redis.call('SREM', key('parked'), class .. ':' .. tenant) == 1 then ring() end
end

local function count_bytes(class, tenant, delta)
  if delta == 0 then return end  -- for an empty spec Lua's -0 would be "-0" to Redis, which isn't an integer
  local field = class .. ':' .. tenant
  if redis.call('HINCRBY', key('queued_bytes'), field, delta) <= 0 then
    redis.call('HDEL', key('queued_bytes'), field)
  end
end

local function change_delayed_bytes(class, tenant, delta)
  if delta == 0 then delta = 0 end  -- Redis doesn't accept Lua's -0 as an integer
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
