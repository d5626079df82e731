-- Whether a worker that holds jobs is to give them back and try suspects: one has waited for long, and nobody tries
-- any. One worker of the queue is asked at a time. ARGV: the worker, its lease in ms, and the classes of which it can
-- try jobs now. What is listed as held by the worker is kept for as long as its leases at least.
local worker, lease_ms, classes = ARGV[1], tonumber(ARGV[2]), {unpack(ARGV, 3)}

local PATIENCE_MS = 2 * 1000  -- a worker that was started again for the suspects' sake comes sooner, as a rule

allow_when_full()
redis.call('PEXPIRE', key('held', worker), lease_ms + HELD_MS)
local now = now_ms()
if others_come_first(now) then return 0 end
for _, class in ipairs(classes) do
  local entry_id = peek(key('suspects', class))
  local waited_ms = entry_id and now - tonumber(string.match(entry_id, '^%d+'))
  if entry_id and (waited_ms > PATIENCE_MS or waited_ms < 0) then  -- before 0: the clock was ahead
    if who_tries(now + longest_lease(lease_ms)) then return 0 end
    redis.call('SET', key('trial'), string.format('%s %d', worker, now + lease_ms), 'PX', lease_ms)
    return 1
  end
end
return 0
