"""API keys: made, listed, revoked, and checked by the gateway."""

from secrets import token_hex

from ...schemas import keys
from ...schemas.access import (
    NOBODY,
    ApiKey,
    NewApiKey,
    StoredApiKey,
    make_key,
    now_ms,
    read_keys,
    split_key,
)
from ...schemas.errors import BadPolicy, Unauthorized
from ..operations import Operations
from ..steps import Read, Steps, Write

USE_MS = 60_000
"""How often a key's last use is written."""


def list_api_keys(operations: Operations) -> Steps[list[ApiKey]]:
    """All keys, newest first."""
    names = _KeyNames(operations)
    records, used = yield from operations.send(Read((("HGETALL", names.keys), ("HGETALL", names.used))))
    return read_keys(records, used)


def create_api_key(operations: Operations, fields: dict[str, object]) -> Steps[NewApiKey]:
    """Make a key.

    Raises:
        BadPolicy: naming the first field that is wrong.
    """
    names = _KeyNames(operations)
    # An existing one is kept, so that two processes that make the first key at once agree on one.
    commands = (("SET", names.hash_key, token_hex(32), "NX"), ("GET", names.hash_key))
    _, hash_key = yield from operations.send(Write(commands))
    shown, stored = make_key(bytes.fromhex(hash_key.decode()), **fields)  # type: ignore[arg-type]
    yield from operations.send(Write((("HSET", names.keys, stored.id, stored.to_wire()),)))
    return shown


def revoke_api_key(operations: Operations, key_id: str) -> Steps[ApiKey]:
    """Revoke a key for every gateway at once; return what it was.

    Raises:
        BadPolicy: there is no key with this id.
    """
    names = _KeyNames(operations)
    (record,) = yield from operations.send(Read((("HGET", names.keys, key_id),)))
    stored = StoredApiKey.read(record)
    if stored is None:
        raise BadPolicy(f"no API key {key_id!r}; see `headrace keys list`")
    yield from operations.send(Write((("HDEL", names.keys, key_id), ("HDEL", names.used, key_id))))
    return stored.public()


def check_api_key(operations: Operations, text: str) -> Steps[ApiKey]:
    """The key with this text; its use is recorded.

    Raises:
        Unauthorized: there is none, or it was revoked or has expired. The message doesn't say which.
    """
    names = _KeyNames(operations)
    # No early return: what doesn't look like a key takes as long as a wrong secret.
    key_id, secret = split_key(text) or ("", "")
    record, used, hash_key = yield from operations.send(
        Read((("HGET", names.keys, key_id), ("HGET", names.used, key_id), ("GET", names.hash_key)))
    )
    known = StoredApiKey.read(record)
    opened = (known or NOBODY).opens(secret, bytes.fromhex((hash_key or b"00").decode()))
    if known is None or not opened or known.expired:
        raise Unauthorized("the API key is wrong, expired or revoked")
    now = now_ms()
    # To a minute, so that a busy key doesn't turn every request into a write.
    if used is None or now - int(used) >= USE_MS:
        yield from operations.send(Write((("HSET", names.used, key_id, now),)))
    return known.public(now)


class _KeyNames:
    def __init__(self, operations: Operations) -> None:
        namespace = operations.settings.namespace
        self.keys = keys.api_keys(namespace)
        self.used = keys.api_keys_used(namespace)
        self.hash_key = keys.api_key_hash_key(namespace)
