-- Give a dead letter another life, with its progress or from scratch.
-- args: entry from_scratch:flag request
-- uses: jobs log once
local before = answered(request)
if before then  -- what comes after the answer may not have come any more
  redis.call('XDEL', key('dead'), entry)
  return before
end
local found = redis.call('XRANGE', key('dead'), entry, entry)[1]
if not found then return 'missing' end
local id = to_fields(found[2]).job
local job, log = fields_of(id, 'state', 'offset'), key('out', id)
if job.state and not TERMINAL[job.state] then  -- an earlier try was interrupted: it lives again
  keep_answer(request, id)
  redis.call('XDEL', key('dead'), entry)
  return id
end
if job.state ~= 'failed' then return 'gone' end
local offset = tonumber(job.offset or 0)

-- The next end marker has this one's id if no token is added, and Redis takes no id below the last. It is put back;
-- newer servers put none back below the last that was deleted, so there that goes first. Older ones know neither.
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
