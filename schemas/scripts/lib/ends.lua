-- How jobs end.
-- uses: jobs log outbox

local function note_pace(class, now)
  local pace = to_fields(redis.call('HGETALL', key('pace', class)))
  local interval = pace.at and math.max(0, math.min(now - tonumber(pace.at), 60000)) or 1000
  local mean = pace.mean and (0.9 * tonumber(pace.mean) + 0.1 * interval) or interval
  redis.call('HSET', key('pace', class), 'at', now, 'mean', string.format('%.3f', mean))
end

-- The text, the token ids and their number, if all chunks of the log are as workers write them; otherwise nil. Chunks
-- aren't decoded, because a log may be as long as the model's context.
local function output_as_written(log)
  local text, ids, count = {}, {}, 0
  for i, event in ipairs(log) do
    local piece, tokens = string.match(event, '^{"offset":%d+,"text":"(.-)","token_ids":%[([%d,]+)%]')
    if not piece then return nil end
    text[i], ids[i] = piece, tokens
    count = count + 1
    if string.find(tokens, ',', 1, true) then count = count + select(2, string.gsub(tokens, ',', '')) end
  end
  local whole = '"' .. table.concat(text) .. '"'
  if pcall(cjson.decode, '[' .. whole .. ']') then return whole, table.concat(ids, ','), count end
end

local function output_as_it_can_be_read(log)
  local text, tokens = {}, {}
  for _, event in ipairs(log) do
    pcall(function()
      local chunk = cjson.decode(event)
      text[#text + 1] = (chunk.text or '') .. ''
      for _, token in ipairs(chunk.token_ids or {}) do tokens[#tokens + 1] = string.format('%d', token) end
    end)
  end
  return cjson.encode(table.concat(text)), table.concat(tokens, ','), #tokens
end

-- The log of each of several answers. A worker writes which one a chunk is of next to its tokens.
local function logs_of_choices(log, answers)
  local logs = {}
  for choice = 1, answers do logs[choice] = {} end
  for _, event in ipairs(log) do
    local rest = string.match(event, '^{"offset":%d+,"text":".-","token_ids":%[[%d,]+%](.*)$') or ''
    local own = logs[1 + (tonumber(string.match(rest, '^,"choice":(%d+)') or 0))]
    if own then
      own[#own + 1] = event
      own.finish_reason = string.match(rest, '^,"finish_reason":"(%l+)"')
        or string.match(rest, '^,"choice":%d+,"finish_reason":"(%l+)"')
    end
  end
  return logs
end

local function output_of(log, finish_reason)
  local text, ids, count = output_as_written(log)
  if not text then text, ids, count = output_as_it_can_be_read(log) end
  return '"text":' .. text .. ',"token_ids":[' .. ids .. '],"finish_reason":"' .. (log.finish_reason or finish_reason)
    .. '"', count
end

-- The result of a job that ends without a worker: the text and tokens of its log, as far as it can be read.
local function output_so_far(id, finish_reason)
  local log, answers = log_of(id), choices_of(fields_of(id, 'n'))
  local output, count, choices = '', 0, {}
  for choice, own in ipairs(answers > 1 and logs_of_choices(log, answers) or {log}) do
    local found, tokens = output_of(own, finish_reason)
    if choice == 1 then output = found end
    choices[choice], count = '{' .. found .. '}', count + tokens
  end
  if answers > 1 then output = output .. ',"choices":[' .. table.concat(choices, ',') .. ']' end
  return '{' .. output .. ',"usage":{"completion_tokens":' .. count .. '}}'
end

-- Remove a job that has ended from every index; `before` is its record from before the end.
local function leave_all(id, before)
  leave_queue(id, before)
  stop_running(id, before.tenant, before.worker)
  leave_delayed(id, before.class, before.tenant)
  redis.call('ZREM', key('deadlines'), id)
  redis.call('HDEL', key('job', id), 'stream', 'entry', 'fence', 'cancel', 'suspect')
end

-- Complete an end that was interrupted.
local function complete_end(id) leave_all(id, fields_of(id, 'worker', unpack(PLACE))) end

-- The one way into a terminal state: result, end marker, acknowledgement, lease, outbox and retention. Further fields
-- are written with the state.
local function end_job(id, state, output, error, end_payload, retention_ms, now, ...)
  local job = fields_of(id, 'offset', 'events', 'worker', unpack(PLACE))
  settle(id, state == 'failed' and not job.offset)
  if not publish(id, number(job.offset) .. '-1', end_payload) then  -- a damaged log can't keep a job from ending
    redis.call('PUBLISH', key('chan', id), end_payload)
  end
  notify(id, job.events, 'job.' .. state, now)
  keep_ended(id, retention_ms, now)
  if error ~= '' then redis.call('HSET', key('job', id), 'error', error) end
  redis.call('HSET', key('job', id), 'state', state, 'result', output, 'finished_ms', now, ...)
  leave_all(id, job)
  note_pace(job.class, now)
end

-- The jobs that ended in this call without a worker: what the caller's log needs to report them.
local unattended = {}

-- `end_job` for a job whose text no worker has: it was cancelled, expired or died in the queue.
local function end_unattended(id, state, reason, error, retention_ms, now, ...)
  local job = fields_of(id, 'offset', 'tenant', 'class', 'enqueued_ms', 'worker', 'attempts')
  local offset = number(job.offset)
  local end_payload = '{"offset":' .. offset .. ',"end":"' .. state .. '","finish_reason":"' .. reason .. '"'
    .. (error ~= '' and (',"error":' .. error) or '') .. '}'
  end_job(id, state, output_so_far(id, reason), error, end_payload, retention_ms, now, ...)
  local written = to_fields({...})
  unattended[#unattended + 1] = {
    id, state, string.match(error, '"code":"([%w_]+)"') or '', job.tenant or '', job.class or '',
    number(written.attempts or job.attempts), offset, math.max(0, now - (tonumber(job.enqueued_ms) or now)),
    job.worker or '',
  }
end

local LOG_LOOK = 64  -- assembling this many tokens of a log costs as much as one look

local function looks_for(job) return 1 + math.floor(number(job.offset) / LOG_LOOK) end

local function retention_of(id) return fields_of(id, 'state', 'retention_ms').retention_ms end
