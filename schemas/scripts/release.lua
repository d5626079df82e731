-- Give a running job back with its progress. It goes ahead of the lanes, and no attempt is counted.
-- args: id fence from:number to:number payload prompt_tokens reason
-- uses: ends

allow_when_full()
local job, now = fields_of(id, 'state', 'fence', 'offset', 'cancel', 'suspect', 'retention_ms'), now_ms()
if not job.state then
  redis.call('ZREM', key('leases'), id)
  return 'gone'
end
if job.fence ~= fence then return 'fenced' end
local refused = append(id, job.offset, from, to, payload, now)
if refused then return refused end
if job.cancel then
  end_unattended(id, 'cancelled', 'cancelled', '', job.retention_ms, now)
  return 'cancelled'
end
if tonumber(prompt_tokens) > 0 then redis.call('HSET', key('job', id), 'prompt_tokens', prompt_tokens) end
redis.call('HSET', key('job', id), 'released', reason)
local suspect = job.suspect and to <= tonumber(job.suspect)
if not suspect then redis.call('HDEL', key('job', id), 'suspect') end
requeue(id, suspect and 'suspects' or 'retry')
return 'ok'
