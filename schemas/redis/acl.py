"""The rights that a Redis user needs. `headrace acl` prints them, and a test runs a service with them."""

from enum import StrEnum

from ..keys import NAMESPACE


class Role(StrEnum):
    """What connects to Redis, and therefore which rights it needs."""

    PRODUCER = "producer"
    GATEWAY = "gateway"
    WORKER = "worker"
    CALLBACKS = "callbacks"
    OPERATOR = "operator"


_CONNECTION = "ping hello auth select client|setname info command multi exec discard wait"
_CLUSTER = "cluster|slots cluster|shards cluster|nodes readonly asking"
_SCRIPTS = (
    "eval evalsha time exists type del pexpire persist get set "
    "hget hset hdel hmget hgetall hkeys hincrby hstrlen "
    "xadd xrange xlen xdel xack xtrim xsetid xgroup xreadgroup xinfo "
    "zadd zrem zcard zscan zscore zrange zrangebyscore zincrby zremrangebyscore "
    "sadd srem scard smembers srandmember lpush llen publish"
)
_READING = "subscribe unsubscribe"
_CELERY = (
    "brpop rpop rpush lrem psubscribe punsubscribe pubsub "
    "sismember zrevrangebyscore hexists expire setex watch script|load script|exists"
)
_CALLBACKS = "xautoclaim xclaim"
_OPERATOR = "config|get acl|whoami memory slowlog latency xrevrange zrevrange zcount"

_COMMANDS = {
    Role.PRODUCER: (_CONNECTION, _CLUSTER, _SCRIPTS, _READING),
    Role.GATEWAY: (_CONNECTION, _CLUSTER, _SCRIPTS, _READING),
    Role.WORKER: (_CONNECTION, _CLUSTER, _SCRIPTS, _READING, "blpop", _CELERY),
    Role.CALLBACKS: (_CONNECTION, _CLUSTER, _SCRIPTS, _READING, _CELERY, _CALLBACKS),
    Role.OPERATOR: (_CONNECTION, _CLUSTER, _SCRIPTS, _READING, _CELERY, _OPERATOR),
}


_RESULTS = ("celery:celery-task-meta-*", "celery:celery-taskset-meta-*")
"""Celery's keys that hold results, and the channels that announce them."""

# Beside the queues' own keys, whose names begin with a tag in braces.
_KEYS = {
    Role.PRODUCER: (
        *("{*", "models", "routes", "adapters", "routed:*", "callbacks", "celery_key"),
        *_RESULTS,
    ),
    Role.GATEWAY: (
        *("{*", "models", "tenants", "routes", "adapters", "routed:*"),
        *("api_keys", "api_keys_used", "api_key_hash_key"),
    ),
    Role.WORKER: ("{*", "models", "tenants", "celery:*"),
    Role.CALLBACKS: ("*",),
    Role.OPERATOR: ("*",),
}


def acl_line(role: Role, user: str, namespace: str = NAMESPACE) -> str:
    """The command that creates the user, with `<password>` in place of the password.

    Scripts run with the rights of their caller, so a producer needs the scripts' commands too.
    """
    commands = dict.fromkeys(command for group in _COMMANDS[role] for command in group.split())
    rights = " ".join(f"+{command}" for command in commands)
    names = " ".join(f"~{namespace}:{name}" for name in _KEYS[role])
    # Celery's workers subscribe by pattern, which Redis only allows for exactly the same pattern, or for all.
    # Anyone who may publish there can tell them to stop, so producers may not.
    producers = " ".join(f"&{namespace}:{name}" for name in ("{*", *_RESULTS))
    channels = producers if role in (Role.PRODUCER, Role.GATEWAY) else "&*"
    return f"ACL SETUSER {user} on ><password> resetchannels {names} {channels} -@all {rights}"
