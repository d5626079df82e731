-- A job's token log.
-- uses: base

-- The events of a job's log; none if the key was damaged from outside.
local function log_of(id)
  local log = {}
  for _, entry in ipairs(attempt('XRANGE', key('out', id), '-', '+') or {}) do
    local fields = entry[2]
    log[#log + 1] = fields[1] == 'event' and fields[2] or to_fields(fields).event
  end
  return log
end

-- Whether the entry is in the log already, because an earlier try was interrupted.
local function is_in_log(id, entry_id, payload)
  local found = attempt('XRANGE', key('out', id), entry_id, entry_id) or {}
  return found[1] ~= nil and to_fields(found[1][2]).event == payload
end

-- Add an entry, then publish it, so that live readers never see what is not in the log. False if the log is damaged.
local function publish(id, entry_id, payload)
  local added = attempt('XADD', key('out', id), entry_id, 'event', payload)
  if not added and not is_in_log(id, entry_id, payload) then return false end
  redis.call('PUBLISH', key('chan', id), payload)
  return true
end

-- From its first token on, a job belongs to the model that made it.
local function note_first_token(id, now)
  local model = fields_of(id, 'worker_fingerprint').worker_fingerprint
  redis.call('HSET', key('job', id), 'first_token_ms', now)
  if model then
    redis.call('HSET', key('job', id), 'fingerprint', model)
  else
    redis.call('HDEL', key('job', id), 'fingerprint')
  end
end

-- Discard all tokens of a waiting job. Live readers are sent a chunk that follows none, so they read the log again and
-- find that it starts from scratch.
local function start_over(id)
  local restarts = (tonumber(fields_of(id, 'restarts').restarts) or 0) + 1
  redis.call('HSET', key('job', id), 'restarts', restarts)
  redis.call('DEL', key('out', id))
  redis.call('HDEL', key('job', id), 'offset', 'first_token_ms', 'fingerprint', 'mixed')
  redis.call('PUBLISH', key('chan', id), '{"offset":9007199254740991,"text":"","restarts":' .. restarts .. '}')
end

-- Write tokens from..to of a job's log. Returns nil if they are there, even from an earlier try (whose reply was lost),
-- or the refusal: the log doesn't reach `from`, ends inside the chunk, or is damaged.
local function append(id, stored_offset, from, to, payload, now)
  local offset = tonumber(stored_offset or 0)
  if not offset then return 'damaged' end
  if payload == '' or to <= offset then return nil end
  if from ~= offset then return 'behind ' .. offset end
  if not publish(id, to .. '-0', payload) then return 'damaged' end
  if offset == 0 then note_first_token(id, now) end
  redis.call('HSET', key('job', id), 'offset', to)
end
