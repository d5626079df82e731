-- End a running job: last tokens, terminal state, result, end marker and all effects in one step.
-- args: id fence from:number to:number payload state output error end_payload prompt_tokens:number
-- uses: ends

allow_when_full()
local job, now = fields_of(id, 'state', 'fence', 'offset', 'retention_ms'), now_ms()
if not job.state then
  redis.call('ZREM', key('leases'), id)
  return 'gone'
end
if TERMINAL[job.state] then
  complete_end(id)
  return 'already ' .. job.state
end
if job.fence ~= fence then return 'fenced' end
local refused = append(id, job.offset, from, to, payload, now)
if refused and refused ~= 'damaged' then return refused end  -- the result has all tokens, and a damaged log stays damaged
if prompt_tokens > 0 then redis.call('HSET', key('job', id), 'prompt_tokens', prompt_tokens) end
end_job(id, state, output, error, end_payload, job.retention_ms, now)
return 'ok'
