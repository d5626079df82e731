-- Record how far a batch is, and renew its lease; only the holder of the lease may. A part is counted once, together
-- with its answers; from then on, the lines that it names are answered.
-- args: name holder lease_ms:number part lines completed:number failed:number input_tokens:number output_tokens:number
--   retention_ms:number leaves:flag fields...
-- uses: base
local record, parts = key('batch', name), key('parts', name)
if redis.call('HGET', record, 'holder') ~= holder then return {'lost'} end
local now = now_ms()
if part ~= '' and not redis.call('HGET', parts, part) then
  -- The counts are written as values, and before the part, so that an interrupted try is repeated from the start.
  local before = redis.call('HMGET', record, 'parts', 'completed', 'failed', 'input_tokens', 'output_tokens')
  if before[1] ~= part then
    redis.call('HSET', record, 'parts', part, 'completed', number(before[2]) + completed,
      'failed', number(before[3]) + failed, 'input_tokens', number(before[4]) + input_tokens,
      'output_tokens', number(before[5]) + output_tokens)
  end
  redis.call('HSET', parts, part, lines)
end
redis.call('PEXPIRE', parts, retention_ms)
if ARGV[fields_from] then redis.call('HSET', record, unpack(ARGV, fields_from)) end
redis.call('PEXPIRE', record, retention_ms)
if leaves then
  redis.call('ZREM', key('active'), name)
else
  redis.call('ZADD', key('active'), now + lease_ms, name)
end
return {'ok', redis.call('EXISTS', key('cancelled', name))}
