-- Give a dead letter another life, with its progress or from scratch.
local entry_id, from_scratch = ARGV[1], ARGV[2] == '1'
local found = redis.call('XRANGE', key('dead'), entry_id, entry_id)[1]
if not found then return 'missing' end
local id = to_fields(found[2]).job
local job, log = fields_of(id, 'state', 'offset'), key('out', id)
if job.state ~= 'failed' then return 'gone' end
local offset = tonumber(job.offset or 0)

redis.call('HDEL', key('job', id), 'attempts', 'history', 'suspect', 'result', 'error', 'finished_ms', 'deadline_ms')
if from_scratch or offset == 0 or redis.call('TYPE', log).ok ~= 'stream' then
  redis.call('DEL', log)
  redis.call('HDEL', key('job', id), 'offset', 'first_token_ms')
else
  redis.call('XDEL', log, offset .. '-1')
  redis.call('XSETID', log, offset .. '-0')  -- or Redis would refuse the end marker if no token is added
  redis.call('PERSIST', log)
end
redis.call('PERSIST', key('job', id))
requeue(id, 'retry')
redis.call('XDEL', key('dead'), entry_id)
return id
