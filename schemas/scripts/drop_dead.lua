-- Delete a dead letter with what was kept of its job.
-- args: entry request
-- uses: once
local before = answered(request)
if before then  -- the first try may have been interrupted after this
  redis.call('XDEL', key('dead'), entry)
  return before
end
local found = redis.call('XRANGE', key('dead'), entry, entry)[1]
if not found then return 'missing' end
local id = to_fields(found[2]).job or ''
if fields_of(id, 'state').state == 'failed' then redis.call('DEL', key('job', id), key('out', id)) end
keep_answer(request, id)
redis.call('XDEL', key('dead'), entry)
return id
