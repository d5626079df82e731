-- Cancel a job: at once if it is waiting, with a flag that its worker's next `advance` sees if it is running.
-- args: id
-- uses: ends
allow_when_full()
local job = fields_of(id, 'state', 'retention_ms')
if not job.state then return 'missing' end
if TERMINAL[job.state] then
  complete_end(id)
  return 'already ' .. job.state
end
if job.state == 'running' then
  redis.call('HSET', key('job', id), 'cancel', 1)
  return 'cancelling'
end
end_unattended(id, 'cancelled', 'cancelled', '', job.retention_ms, now_ms())
return 'cancelled'
