-- Pause a whole queue, a class, a tenant, or a tenant's class (`*` stands for all of them). Until it is resumed, no claim
-- takes a job of it from its lane; jobs that have left their lanes continue.
-- args: class tenant
-- uses: base
local MAX_PAUSES = 1000  -- of one queue, so that listing them is bounded

allow_when_full()
local field = class .. ':' .. tenant
if redis.call('HGET', key('paused'), field) then return 'ok' end
if #redis.call('HKEYS', key('paused')) >= MAX_PAUSES then return 'full' end
redis.call('HSET', key('paused'), field, now_ms())
return 'ok'
