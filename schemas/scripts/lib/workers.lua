-- Which worker may run which job, by model, version and size, and which one tries suspects.
-- uses: base

-- The fingerprint of the model that made the job's tokens; nil if it has none.
local function model_of(job)
  return (tonumber(job.offset) or 0) > 0 and string.match(job.fingerprint or '', '^%x+$') or nil
end

-- The readers of a job that has run: `<class>`, then `:v<version>` and `:<model>`, if these limit who may take it.
local function readers_of(job)
  local version = (tonumber(job.v) or 1) > 1 and ':v' .. job.v or ''
  local model = model_of(job)
  return job.class .. version .. (model and ':' .. model or '')
end

-- The same from a worker's side: all the readers that it belongs to in a class, those of its model's jobs first.
local function readable(class, max_v, fingerprint)
  local found = {}
  for v = 1, max_v do
    for _, offset in ipairs(fingerprint ~= '' and {1, 0} or {0}) do
      found[#found + 1] = readers_of({class = class, v = v, offset = offset, fingerprint = fingerprint})
    end
  end
  return found
end

local HELD_MS = 60 * 1000  -- how long the list of what a worker holds outlives its last lease
local ACCOMPANIED = '*'  -- among the jobs that a worker holds: it has, or had, others that are not listed

-- The worker that tries suspects, or has been asked to.
local function who_tries(latest)
  local worker, until_ms = string.match(redis.call('GET', key('trial')) or '', '^(%S+) (%d+)$')
  return believed(until_ms, latest or math.huge) and worker
end

local MIN_OTHERS_MS, MAX_OTHERS_MS = 2 * 1000, 60 * 1000

-- Whether other jobs come before the next suspect. A suspect that ends its worker costs them time, so they then get
-- as much as no worker was there for them: however many suspects there are, other jobs make progress too.
local function others_come_first(now)
  local known = redis.call('HMGET', key('pulse'), 'trial_died_ms', 'others_until_ms')
  if not known[1] then return (believed(known[2], now + MAX_OTHERS_MS) or 0) > now end
  local until_ms = now + math.max(MIN_OTHERS_MS, math.min(MAX_OTHERS_MS, now - tonumber(known[1])))
  redis.call('HDEL', key('pulse'), 'trial_died_ms')
  redis.call('HSET', key('pulse'), 'others_until_ms', until_ms)
  return true
end

local MAX_LARGER = 32  -- workers of other models that are skipped

-- Whether another live worker, of the job's own model if it has one, can hold more than `capacity` tokens of one job.
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
