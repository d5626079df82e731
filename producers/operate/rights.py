"""Whether this Redis user may do what the scripts do: each command is tried inside one script.

Redis checks the rights of a script's caller at each command, so trying is the only way that works on every
version and needs no right to read ACLs. A script is atomic: nobody sees the key that it writes, and it leaves
none.
"""

from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError

from ...schemas.keys import Tag
from ...schemas.redis.call import text
from ...schemas.redis.connection import broker_errors

# Every command gets valid arguments, because Redis counts them before it checks rights. DEL comes first: a
# user that may not delete must not write.
_PROBE = """
local key, denied = KEYS[1], {}
local function try(...)
  local reply = redis.pcall(...)
  local message = type(reply) == 'table' and reply.err or ''
  local refused = string.find(message, 'NOPERM', 1, true) or string.find(message, 'ACL failure', 1, true)
    or string.find(message, 'executing the script', 1, true)
  if refused then denied[#denied + 1] = string.lower((...)) end
  return not refused
end
if not try('DEL', key) then return denied end
try('SET', key, 1) try('GET', key) try('PEXPIRE', key, 1000) try('PERSIST', key)
try('EXISTS', key) try('TYPE', key)
redis.call('DEL', key)
try('HSET', key, 'f', 1) try('HGET', key, 'f') try('HMGET', key, 'f') try('HGETALL', key) try('HKEYS', key)
try('HINCRBY', key, 'f', 1) try('HSTRLEN', key, 'f') try('HDEL', key, 'f')
redis.call('DEL', key)
try('XADD', key, '1-0', 'f', 1) try('XRANGE', key, '-', '+') try('XLEN', key) try('XSETID', key, '2-0')
try('XGROUP', 'CREATE', key, 'g', '0') try('XREADGROUP', 'GROUP', 'g', 'c', 'STREAMS', key, '>')
try('XACK', key, 'g', '1-0') try('XINFO', 'STREAM', key) try('XTRIM', key, 'MAXLEN', 1)
try('XDEL', key, '1-0')
redis.call('DEL', key)
try('ZADD', key, 1, 'm') try('ZREM', key, 'x') try('ZCARD', key) try('ZSCAN', key, 0)
try('ZSCORE', key, 'm')
try('ZRANGE', key, 0, 0)
try('ZRANGEBYSCORE', key, 0, 0) try('ZINCRBY', key, 1, 'm') try('ZREMRANGEBYSCORE', key, 0, 0)
redis.call('DEL', key)
try('SADD', key, 'm') try('SREM', key, 'x') try('SCARD', key) try('SMEMBERS', key) try('SRANDMEMBER', key)
redis.call('DEL', key)
try('LPUSH', key, 'm') try('LLEN', key)
redis.call('DEL', key)
try('TIME') try('PUBLISH', key, '')
return denied
"""


def denied_commands(redis: Redis, namespace: str) -> list[str]:
    """The scripts' commands that this user may not use on the namespace's keys; `eval` if it may run no
    script.

    Raises:
        BrokerUnavailable: trying was impossible, because Redis is full, loading, or a read-only replica.
    """
    key = f"{Tag('doctor', 0, namespace).base}:probe"
    with broker_errors():
        try:
            return [text(name) for name in redis.eval(_PROBE, 1, key)]
        except NoPermissionError:
            return ["eval"]
        except ResponseError as error:
            if "ACL failure" in str(error) or "executing the script" in str(error):
                return ["del"]
            raise
