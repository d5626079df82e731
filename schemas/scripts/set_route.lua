-- Set an alias, unless one of its targets is an alias too or it is itself another's target: no alias leads to another.
-- KEYS[1] is the hash of all aliases.
-- args: alias record most:number targets...
local is_alias, others, led_from = {}, 0, nil
local found = redis.call('HGETALL', KEYS[1])
for i = 1, #found, 2 do
  if found[i] ~= alias then
    others = others + 1
    local intact, route = pcall(cjson.decode, found[i + 1])
    if intact and type(route) == 'table' and type(route.targets) == 'table' then
      is_alias[found[i]] = true
      if route.targets[alias] then led_from = found[i] end
    end
  end
end
for i = targets_from, #ARGV do
  if is_alias[ARGV[i]] then return {'target', ARGV[i]} end
end
if led_from then return {'alias', led_from} end
if others >= most then return {'full', ''} end
redis.call('HSET', KEYS[1], alias, record)
return {'ok', ''}
