-- Make a delivery of an outbox entry. From now on it is tried until it ends, even if the job's record is gone.
-- The entry is deleted with it, unless more follows from it (`keep_entry`); its delivery is made once in any case.
-- args: entry id endpoint retention_ms per_endpoint:number keep_entry:flag fields...
-- uses: outbox new_delivery
if #redis.call('XRANGE', key('outbox'), entry, entry) == 0 then return 'already' end
local known = make_delivery(id, endpoint, retention_ms, per_endpoint, {unpack(ARGV, fields_from)})
if not keep_entry then drop_entry(entry) end
return known and 'already' or 'ok'
