-- Give a dead letter another life, with its progress or from scratch.
local entry_id, from_scratch = ARGV[1], ARGV[2] == '1'
local found = redis.call('XRANGE', key('dead'), entry_id, entry_id)[1]
if not found then return 'missing' end
local id = to_fields(found[2]).job
local job = fields_of(id, 'state', 'offset')
if job.state ~= 'failed' then return 'gone' end

redis.call('HDEL', key('job', id), 'attempts', 'suspect', 'result', 'error', 'finished_ms', 'deadline_ms')
if from_scratch then
  redis.call('DEL', key('out', id))
  redis.call('HDEL', key('job', id), 'offset', 'first_token_ms')
else
  redis.call('XDEL', key('out', id), (job.offset or 0) .. '-1')
  redis.call('PERSIST', key('out', id))
  if redis.call('XLEN', key('out', id)) == 0 then redis.call('DEL', key('out', id)) end
end
redis.call('PERSIST', key('job', id))
requeue(id, key('retry'))
redis.call('XDEL', key('dead'), entry_id)
return id
