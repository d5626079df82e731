-- Cancel a job: at once if it is waiting, with a flag that its worker's next `advance` sees if it is running, or not
-- at all if it is running and only `waiting_only` jobs are meant. `error`, as JSON, says why a waiting job is cancelled.
-- args: id waiting_only:flag error
-- uses: ends
allow_when_full()
local job = fields_of(id, 'state', 'retention_ms')
if not job.state then return 'missing' end
if TERMINAL[job.state] then
  complete_end(id)
  return 'already ' .. job.state
end
if job.state == 'running' then
  if waiting_only then return 'running' end
  redis.call('HSET', key('job', id), 'cancel', 1)
  return 'cancelling'
end
end_unattended(id, 'cancelled', 'cancelled', error or '', job.retention_ms, now_ms())
return 'cancelled'
