-- What every script shares: key names, time, records.
-- Rules: KEYS[1] is the tag's prefix, and every key is derived from it (one Redis Cluster slot). Time is Redis's own.
-- A script first decides, then writes, so that an error never leaves half a move behind.

local function key(...) return KEYS[1] .. ':' .. table.concat({...}, ':') end

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- A stored time, or nil if it lies further ahead than its kind ever does: Redis's clock may have been ahead for a
-- while, for example after a failover to a machine where it is wrong.
local function believed(moment, latest)
  moment = tonumber(moment)
  return moment and moment <= latest and moment or nil
end

-- The longest lease of any worker of the queue; they report theirs with their upkeep.
local function longest_lease(lease_ms)
  return math.max(lease_ms, tonumber(redis.call('HGET', key('pulse'), 'lease_ms') or 0))
end

local GROUP, CONSUMER = 'workers', 'workers'  -- one consumer: leases say who runs a job, not the group
local MAX_BELLS = 64                          -- more wake-ups than this at once tell idle workers nothing new

local CLASSES = {'interactive', 'standard', 'batch'}  -- most urgent first

local IS_CLASS = {interactive = true, standard = true, batch = true}

local TERMINAL = {succeeded = true, failed = true, cancelled = true, expired = true}

-- Redis refuses a script's first write when memory is full, unless that write can't grow memory. Moves by which work
-- continues and memory shrinks begin with one that can't, so that running jobs finish on a full Redis.
local function allow_when_full() redis.call('DEL', key('full')) end

local DAMAGE = {'WRONGTYPE', 'not an integer', 'not a valid float', 'overflow', 'ID specified', 'stream ID',
  'last possible ID', 'not a number', 'attempt to ', 'bad argument', 'invalid value'}

-- Whether an error means that something was damaged from outside, not that Redis refuses (missing rights, say).
local function is_damage(err)
  local reason = type(err) == 'table' and err.err or tostring(err)
  for _, sign in ipairs(DAMAGE) do
    if string.find(reason, sign, 1, true) then return true end
  end
  return false
end

-- A command's reply; nil if damage prevents it. If Redis refuses the command, the script fails, to be sent again.
local function attempt(...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if not is_damage(reply) then error(reply.err, 0) end
end

-- Fields of the record that must be a number or a known class, with what stands for a damaged value; false if nothing
-- does. So one job's damage stops no script.
local INSTEAD = {v = '1', prompt_tokens = '0', prompt_bytes = '0', max_tokens = '1', max_attempts = '3',
  retention_ms = '86400000', class = 'standard', offset = 'damaged', attempts = false, suspect = false, epoch = false,
  max_runtime_ms = false, deadline_ms = false, enqueued_ms = false, passed = false, charged = false, n = false}

local function fits(name, value)
  if name == 'class' then return IS_CLASS[value] end
  return value == '0' or #value < 16 and string.find(value, '^[1-9]%d*$')
end

-- Fields of a job's record; a record that isn't a hash has none.
local function fields_of(id, ...)
  local names, values, out = {...}, attempt('HMGET', key('job', id), ...), {}
  if not values then return out end
  local known, incomplete = false, false
  for i, name in ipairs(names) do
    local value, instead = values[i], INSTEAD[name]
    if value then
      known = true
      if instead == nil or fits(name, value) then out[name] = value else out[name] = instead or nil end
    elseif instead and name ~= 'offset' then  -- every job has these from the start
      incomplete = true
    end
  end
  if not (known and incomplete) then return out end
  for i, name in ipairs(names) do
    if not values[i] and name ~= 'offset' then out[name] = INSTEAD[name] or nil end
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

local function number(value) return tonumber(value or 0) or 0 end

local MOST_CHOICES = 128

-- How many answers a job asks for, all of them in its one log.
local function choices_of(job) return math.max(1, math.min(MOST_CHOICES, number(job.n))) end

local function due(job, now) return job.deadline_ms and tonumber(job.deadline_ms) <= now end
