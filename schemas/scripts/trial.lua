-- Whether a worker that holds jobs should give them back and try suspects: one has waited for long, and no worker
-- tries any. One worker of the queue is asked at a time. `max_v` is the newest schema version that it reads, `classes`
-- are those whose suspects it can try now. The list of what the worker holds is kept at least as long as its leases.
-- args: worker lease_ms:number max_v:number fingerprint tokens_per_byte:number classes...
-- uses: queue workers
local classes = {unpack(ARGV, classes_from)}

local PATIENCE_MS = 2 * 1000  -- the dead worker's successor, which holds nothing, usually claims sooner
local LOOKS = 16              -- at suspects of a class

-- The first suspect that a claim by this worker wouldn't leave to one with more memory.
local function first_for_worker(readers, class)
  local own = tonumber(redis.call('ZSCORE', key('capacity', class), worker) or math.huge)
  local is_larger = is_larger_elsewhere(class, string.match(readers, ':(%x+)$'), own)
  local stream = key('suspects', readers)
  local after = taken_up_to(stream)
  for _, found in ipairs(after and redis.call('XRANGE', stream, '(' .. after, '+', 'COUNT', LOOKS) or {}) do
    local entry = to_fields(found[2])
    local most = prompt_of(entry, tokens_per_byte) + number(entry.max_tokens)
    if most <= own or not is_larger then return found[1] end
  end
end

allow_when_full()
redis.call('PEXPIRE', key('held', worker), lease_ms + HELD_MS)
local now = now_ms()
if others_come_first(now) then return 0 end
for _, class in ipairs(classes) do
  for _, readers in ipairs(readable(class, max_v, fingerprint)) do
    local entry_id = first_for_worker(readers, class)
    local waited_ms = entry_id and now - tonumber(string.match(entry_id, '^%d+'))
    if entry_id and (waited_ms > PATIENCE_MS or waited_ms < 0) then  -- below 0: the clock was ahead
      if who_tries(now + longest_lease(lease_ms)) then return 0 end
      redis.call('SET', key('trial'), string.format('%s %d', worker, now + lease_ms), 'PX', lease_ms)
      return 1
    end
  end
end
return 0
