-- Delete an outbox entry, because everything has followed from it.
-- args: entry
-- uses: outbox
allow_when_full()
drop_entry(entry)
return 'ok'
