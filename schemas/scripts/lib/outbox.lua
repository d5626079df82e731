-- What follows from a job, and how long its record is kept.
-- uses: base

local function notify(id, events, event, now)
  if events and string.find(',' .. events .. ',', ',' .. event .. ',', 1, true) then
    redis.call('XADD', key('outbox'), '*', 'job', id, 'event', event, 'at_ms', now)
    attempt('HINCRBY', key('job', id), 'effects', 1)
  end
end

local EFFECTS_MS = 7 * 86400 * 1000  -- the longest that a job's record is kept for what is to follow from its end
local LONGEST_MS = 1e12

local function keep(id, ms)
  local kept_ms = math.min(LONGEST_MS, math.max(1, math.floor(ms)))
  redis.call('PEXPIRE', key('job', id), kept_ms)
  redis.call('PEXPIRE', key('out', id), kept_ms)
end

-- Keep a job that has ended for its retention, or longer while something is still to follow from it; a record that
-- was damaged from outside isn't kept forever.
local function keep_ended(id, retention_ms, now)
  local kept_ms = tonumber(retention_ms) or EFFECTS_MS
  if (tonumber(fields_of(id, 'effects').effects) or 0) > 0 then
    attempt('HSET', key('job', id), 'expires_ms', string.format('%.0f', now + kept_ms))
    kept_ms = math.max(kept_ms, EFFECTS_MS)
  end
  keep(id, kept_ms)
end

-- Delete an outbox entry that has been handled. After an ended job's last one, its record is kept for its retention.
local function drop_entry(entry)
  local found = redis.call('XRANGE', key('outbox'), entry, entry)[1]
  redis.call('XACK', key('outbox'), 'relay', entry)
  if not found then return end
  redis.call('XDEL', key('outbox'), entry)
  local id = to_fields(found[2]).job or ''
  local job = fields_of(id, 'effects', 'expires_ms')
  local effects, expires_ms = tonumber(job.effects), tonumber(job.expires_ms)
  if not effects then return end  -- an older worker counts none
  if effects > 1 then return attempt('HINCRBY', key('job', id), 'effects', -1) end
  redis.call('HDEL', key('job', id), 'effects', 'expires_ms')
  if expires_ms then keep(id, expires_ms - now_ms()) end  -- otherwise it has not ended
end
