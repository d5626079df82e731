-- Publish new tokens of running jobs and renew their leases. A segment is id, fence, from, to, payload ('' renews
-- only). Returns one answer per segment, in order.
-- args: lease_ms:number segments...
-- uses: queue log
allow_when_full()
local now, answers = now_ms(), {}

local CHARGED_EVERY = 64  -- tokens that a job generates beyond what it was charged for

local function advance(id, fence, from, to, payload)
  local job = fields_of(id, 'state', 'fence', 'offset', 'cancel', 'deadline_ms', 'suspect', 'charged', 'prompt_tokens')
  if not job.state then
    redis.call('ZREM', key('leases'), id)
    return 'gone'
  end
  if job.fence ~= fence then return 'fenced' end
  redis.call('ZADD', key('leases'), now + lease_ms, id)
  local refused = append(id, job.offset, from, to, payload, now)
  if refused then return refused end
  if job.suspect and to > tonumber(job.suspect) then redis.call('HDEL', key('job', id), 'suspect') end
  if job.charged and number(job.prompt_tokens) + to - number(job.charged) >= CHARGED_EVERY then settle(id) end
  if job.cancel then return 'cancelled' end
  if due(job, now) then return 'expired' end
  return 'ok'
end

for i = segments_from, #ARGV, 5 do
  -- A job whose keys were damaged from outside fails alone; its neighbours in the batch continue.
  local fine, answer = pcall(advance, ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3]), ARGV[i + 4])
  if not fine and not is_damage(answer) then error(answer, 0) end
  answers[#answers + 1] = fine and answer or 'damaged'
end
return answers
