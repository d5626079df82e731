-- Jobs whose worker died.
-- uses: ends

local MAX_DEATHS = 32   -- remembered per job
local MAX_DOUBLINGS = 3  -- of the margin, so that even a log far behind its tokens is passed in a few rounds

-- Add a death to a job's history, which starts again if it was damaged. Returns its JSON and the number of deaths.
local function remember(history, death)
  local fine, deaths = pcall(cjson.decode, history or '[]')
  if not fine or type(deaths) ~= 'table' then deaths = {} end
  while #deaths >= MAX_DEATHS do table.remove(deaths, 1) end
  deaths[#deaths + 1] = death
  return cjson.encode(deaths), #deaths
end

-- Whether only this job can have ended its worker. A suspect runs alone until its log is past what makes it one; for
-- any other job, the list of what the worker holds tells. If that list is gone, the job is taken to have had company.
local function was_alone(id, job)
  if job.suspect then return true end
  local held = key('held', job.worker or '')
  return redis.call('ZCARD', held) == 1 and redis.call('ZSCORE', held, id) ~= false
end

-- Take a running job back from a dead worker. If it was alone there, that counts as an attempt; in company the culprit
-- is unknown, and no job pays. It continues elsewhere. If it may have been the cause (the worker's end is blamed on
-- what it ran, or this is not the first worker that the job has lost), it does so as a suspect, which is tried alone.
-- Returns what became of it, and the looks that this took.
local function take_back(id, blamed, how, suspect_margin, dead_retention_ms, most_attempts, now)
  local job = fields_of(id, 'state', 'attempts', 'max_attempts', 'offset', 'worker', 'cancel', 'retention_ms',
    'history', 'suspect', 'n')
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
    return 'cancelled', looks_for(job)
  end
  if alone and attempts >= math.min(tonumber(job.max_attempts), most_attempts) then
    local message = 'workers died over it ' .. attempts .. ' times; see the dead letters'
    redis.call('XADD', key('dead'), '*', 'job', id, 'cause', 'crashed', 'at_ms', now,
      'attempts', attempts, 'worker', worker, 'offset', offset, 'history', history)
    end_unattended(id, 'failed', 'error', '{"code":"crashed","message":"' .. message .. '"}',
      dead_retention_ms, now, 'attempts', attempts, 'history', history)
    return 'dead', looks_for(job)
  end
  if blamed or deaths > 1 then
    local margin = suspect_margin * choices_of(job) * 2 ^ math.max(0, math.min(deaths - 2, MAX_DOUBLINGS))
    requeue(id, 'suspects', 'attempts', attempts, 'history', history, 'suspect', offset + margin)
  else
    requeue(id, 'retry', 'attempts', attempts, 'history', history)
  end
  return 'recovered', 1
end
