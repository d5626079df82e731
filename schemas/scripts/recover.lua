-- Take back the jobs of a worker whose process has ended, without waiting for their leases; at most `limit` per call.
-- Returns how many those were, how many are left for the next call, and which have ended.
-- args: worker blamed:flag suspect_margin:number dead_retention_ms:number how limit:number most_attempts:number
-- uses: deaths

allow_when_full()
local now, held, count, looks = now_ms(), key('held', worker), 0, limit
for _, id in ipairs(redis.call('ZRANGE', held, 0, limit - 1)) do
  if looks < 1 then break end
  local outcome, took
  if fields_of(id, 'worker').worker == worker then
    outcome, took = take_back(id, blamed, how, suspect_margin, dead_retention_ms, most_attempts, now)
  end
  if outcome then
    count = count + 1
  elseif id ~= ACCOMPANIED then
    unlist(id, worker)
  end
  looks = looks - (took or 0)
end
forget_worker(worker)
return {count, redis.call('ZCARD', held), unattended}
