-- End a pause. Tenants that were parked under it return to the fair order, and all idle workers are woken.
-- args: class tenant
-- uses: queue
allow_when_full()
local ended = redis.call('HDEL', key('paused'), class .. ':' .. tenant)
if tenant ~= '*' then
  for _, each in ipairs(class == '*' and CLASSES or {class}) do unpark(each, tenant) end
end
for _ = 1, math.min(MAX_BELLS, redis.call('ZCARD', key('workers'))) do ring() end
return ended
