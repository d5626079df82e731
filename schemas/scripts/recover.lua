-- A worker's process has ended: take its jobs back now instead of when their leases lapse.
local worker, blamed = ARGV[1], ARGV[2] == '1'
local suspect_margin, dead_retention_ms, how = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]

allow_when_full()
local now, mine, count = now_ms(), {}, 0
for _, id in ipairs(redis.call('ZRANGE', key('leases'), 0, -1)) do
  if fields_of(id, 'worker').worker == worker then mine[#mine + 1] = id end
end
local suspects_of = workers_with_suspects(mine)
for _, id in ipairs(mine) do
  if take_back(id, blamed, suspects_of, how, suspect_margin, dead_retention_ms, now) then count = count + 1 end
end
forget_worker(worker)
return count
