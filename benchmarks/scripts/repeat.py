"""Much of something in Redis, by doing again what scripts did once.

Most of a call is Lua and Python. Here the commands that scripts give Redis for one job are noted, and given
again for any number of others: what is in Redis then is what the scripts would have put there. What differs
from one to the next has `NUMBER` in its name; the ids of entries in streams are replaced by new ones.
"""

import json
from collections.abc import Sequence
from typing import Any

from redis import Redis

from headrace.schemas.scripts import Call

NUMBER = "9999999"
"""Stands for the number of each, in seven digits, in ids of jobs, workers, tenants, endpoints."""

Command = list[str | int]
"""With the position of the XADD, counted from 1, in the place of the id of its entry."""

BATCH = 1000
READS = {"EXISTS", "GET", "HGET", "HGETALL", "HKEYS", "HMGET", "HSTRLEN", "LLEN", "SCARD", "TIME", "TYPE"} | {
    *("XINFO", "XLEN", "XRANGE", "ZCARD", "ZRANGE", "ZRANGEBYSCORE", "ZSCORE"),
}
REMOVES = {"DEL", "HDEL", "SREM", "XACK", "XDEL", "ZREM"}
BELL = "LPUSH"
"""Rings only while few wake-ups wait, and so not for each of many."""


def numbered_id(kind: str) -> str:
    """A job's id; `kind` tells it from those of others, in letters and digits of a ULID."""
    return f"{kind + NUMBER:0>26}.0.bench"


def repeat(redis: Redis, count: int, steps: Sequence[Call[Any] | tuple[str | int, ...]]) -> None:
    """Take the steps, scripts and plain commands, for one, and write what they wrote for `count` others."""
    commands: list[Command] = []
    entries: dict[str, int] = {}
    for step in steps:
        for reply, command in _noted(redis, step):
            if not (command[0] in READS or command[0] == BELL or (command[0] in REMOVES and reply == "0")):
                commands.append([entries.get(arg, arg) for arg in command])
            if command[0] == "XADD":
                entries[reply] = len(entries) + 1
    for start in range(0, count, BATCH):
        redis.eval(_AGAIN, 0, NUMBER, json.dumps(commands), start, min(start + BATCH, count) - 1)


def _noted(redis: Redis, step: Call[Any] | tuple[str | int, ...]) -> list[tuple[str, list[str]]]:
    """Every command of the step with Redis's reply, where that is a number or a string."""
    if not isinstance(step, Call):
        return [(_text(redis.execute_command(*step)), [str(part) for part in step])]
    reply, noted = redis.eval(_NOTED.replace("SCRIPT", step.script.source), 1, step.base, *step.args)
    step.parse(reply)
    return [(_text(answer), [_text(part) for part in command]) for answer, command in noted]


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


_NOTED = """\
local noted, real = {}, redis
local function note(way)
  return function(...)
    local command, reply = {...}, real[way](...)
    for i, arg in ipairs(command) do
      if type(arg) == 'number' then command[i] = string.format('%.17g', arg) end
    end
    noted[#noted + 1] = {type(reply) == 'table' and '' or tostring(reply), command}
    return reply
  end
end
local redis = setmetatable({call = note('call'), pcall = note('pcall')}, {__index = real})
local function script()
SCRIPT
end
return {script(), noted}
"""

_AGAIN = """\
local commands = cjson.decode(ARGV[2])
for number = ARGV[3], ARGV[4] do
  local name, entries = string.format('%07d', number), {}
  for _, command in ipairs(commands) do
    local args = {}
    for i, arg in ipairs(command) do
      args[i] = type(arg) == 'number' and entries[arg] or string.gsub(arg, ARGV[1], name)
    end
    local reply = redis.pcall(unpack(args))  -- a group that is there already
    if args[1] == 'XADD' then entries[#entries + 1] = reply end
  end
end
"""
