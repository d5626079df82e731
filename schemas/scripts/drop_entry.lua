-- All that was to follow from an outbox entry has.
-- args: entry
-- uses: outbox
allow_when_full()
drop_entry(entry)
return 'ok'
