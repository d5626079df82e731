-- Throw a dead letter away, with what was kept of its job for it.
-- uses: once
local entry_id, request = ARGV[1], ARGV[2]
local before = answered(request)
if before then return before end
local found = redis.call('XRANGE', key('dead'), entry_id, entry_id)[1]
if not found then return 'missing' end
local id = to_fields(found[2]).job or ''
if fields_of(id, 'state').state == 'failed' then redis.call('DEL', key('job', id), key('out', id)) end
redis.call('XDEL', key('dead'), entry_id)
return answer(request, id)
