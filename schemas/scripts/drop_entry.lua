-- All that was to follow from an outbox entry has.
-- uses: outbox
allow_when_full()
drop_entry(ARGV[1])
return 'ok'
