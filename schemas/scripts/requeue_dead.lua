-- Queue a dead letter's job again, with its progress or from scratch.
-- args: entry from_scratch:flag request
-- uses: jobs log once
local before = answered(request)
if before then  -- the first try may have been interrupted after this
  redis.call('XDEL', key('dead'), entry)
  return before
end
local found = redis.call('XRANGE', key('dead'), entry, entry)[1]
if not found then return 'missing' end
local id = to_fields(found[2]).job
local job, log = fields_of(id, 'state', 'offset'), key('out', id)
if job.state and not TERMINAL[job.state] then  -- an earlier try was interrupted: the job is queued already
  keep_answer(request, id)
  redis.call('XDEL', key('dead'), entry)
  return id
end
if job.state ~= 'failed' then return 'gone' end
local offset = tonumber(job.offset or 0)

-- If no token is added, the next end marker has this one's id, and Redis accepts no id at or below the last. So the
-- last id is set back. Newer servers refuse to set it below the highest id ever deleted, so that one is set back
-- first; older ones don't know it.
local function take_out_end_marker()
  local last, marker = offset .. '-0', offset .. '-1'
  redis.call('XDEL', log, marker)
  if not attempt('XSETID', log, last) then
    local added = to_fields(redis.call('XINFO', 'STREAM', log))['entries-added']
    redis.call('XSETID', log, marker, 'ENTRIESADDED', added, 'MAXDELETEDID', last)
    redis.call('XSETID', log, last)
  end
end

redis.call('HDEL', key('job', id), 'attempts', 'history', 'suspect', 'charged', 'result', 'error', 'finished_ms',
  'deadline_ms', 'expires_ms')
if offset == 0 then
  redis.call('DEL', log)
elseif from_scratch or redis.call('TYPE', log).ok ~= 'stream' then
  start_over(id)
else
  take_out_end_marker()
  redis.call('PERSIST', log)
end
redis.call('PERSIST', key('job', id))
requeue(id, 'retry')
keep_answer(request, id)
redis.call('XDEL', key('dead'), entry)
return id
