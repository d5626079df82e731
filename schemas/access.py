"""API keys of the gateway, as they are shown once and as they are stored.

A key is `hr_<id>_<secret>`. The id finds its record; only a keyed hash of the secret is kept, so what is in
Redis opens nothing. The key of this hash is made at its first use.
"""

import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from secrets import token_hex, token_urlsafe
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from .errors import BadPolicy
from .job import JobClass, TenantName
from .keys import is_model_name
from .wording import in_words

_KEY = re.compile(r"hr_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")

_HOST = r"^[A-Za-z0-9.:_-]{1,253}$"


class ApiKey(BaseModel):
    """An API key, without its secret.

    Attributes:
        id: names it, in lists and logs.
        tenant: whose jobs, responses, files and batches it reaches.
        name: what it is for, in its owner's words.
        models: the models that it may use; None is all.
        classes: the job classes that it may use; None is all.
        webhook_hosts: the hosts that webhooks may go to; None is all.
        operator: whether it also opens the console and what belongs to operators.
        created_ms: when it was made, in ms since the epoch.
        expires_ms: when it ends; None is never.
        used_ms: when it was last used, to a minute.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    id: str
    tenant: TenantName
    name: Annotated[str, Field(max_length=200)] = ""
    models: Annotated[tuple[str, ...], Field(max_length=256)] | None = None
    classes: Annotated[tuple[JobClass, ...], Field(min_length=1)] | None = None
    webhook_hosts: (
        Annotated[tuple[Annotated[str, Field(pattern=_HOST)], ...], Field(max_length=256)] | None
    ) = None
    operator: bool = False
    created_ms: int
    expires_ms: int | None = None
    used_ms: int | None = None


class NewApiKey(ApiKey):
    """An API key as it is given to its owner, only once.

    Attributes:
        key: the whole key; it can't be read again.
    """

    key: SecretStr


class StoredApiKey(ApiKey):
    """An API key as it is stored in Redis.

    Attributes:
        hash: the hash of its secret.
    """

    hash: Annotated[str, Field(repr=False)]

    @classmethod
    def read(cls, record: bytes | str | None) -> Self | None:
        """The record, if there is one and it can be read."""
        try:
            return None if record is None else cls.model_validate_json(record)
        except ValidationError:
            return None

    def to_wire(self) -> str:
        """The record as JSON."""
        return self.model_dump_json(exclude_defaults=True, exclude={"used_ms"})

    def opens(self, secret: str, hash_key: bytes) -> bool:
        """Whether this is its secret, compared in constant time."""
        return hmac.compare_digest(self.hash, hash_of(secret, hash_key))

    @property
    def expired(self) -> bool:
        """Whether it has expired."""
        return self.expires_ms is not None and now_ms() >= self.expires_ms

    def public(self, used_ms: int | None = None) -> ApiKey:
        """The part of it that may be shown."""
        return ApiKey(**self.model_dump(exclude={"hash", "used_ms"}), used_ms=used_ms)


NOBODY = StoredApiKey(id="", tenant="nobody", created_ms=0, hash="0" * 64)
"""Used for comparison if there is no such key, so that a wrong id takes as long as a wrong secret."""


def make_key(
    hash_key: bytes, *, expires_s: float | None = None, **fields: object
) -> tuple[NewApiKey, StoredApiKey]:
    """Make a key and its record.

    Raises:
        BadPolicy: naming the first field that is wrong.
    """
    # 32 bytes are the 43 characters that `_KEY` expects.
    key_id, secret, now = token_hex(8), token_urlsafe(32), now_ms()
    if expires_s is not None and not 0 < expires_s <= 100 * 365 * 86_400:
        raise BadPolicy(f"expires_s = {expires_s!r}: must be above 0, in seconds")
    ends = None if expires_s is None else now + round(1000 * expires_s)
    given: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
    given |= {"id": key_id, "created_ms": now, "expires_ms": ends}
    for model in given.get("models", ()):
        if not is_model_name(model):
            raise BadPolicy(f"models: {model!r} is not a model's name")
    try:
        stored = StoredApiKey(**given, hash=hash_of(secret, hash_key))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadPolicy(f"{place} = {first['input']!r}: {in_words(first)}") from None
    whole = SecretStr(f"hr_{key_id}_{secret}")
    return NewApiKey(**stored.public().model_dump(), key=whole), stored


def split_key(text: str) -> tuple[str, str] | None:
    """A key's id and secret; None if it doesn't have the form of a key."""
    match = _KEY.fullmatch(text)
    return None if match is None else (match[1], match[2])


def hash_of(secret: str, hash_key: bytes) -> str:
    """The keyed hash of a secret."""
    # A fast hash will do: nobody can try 256 random bits, as they can a password.
    return hashlib.blake2b(secret.encode(), key=hash_key, digest_size=32).hexdigest()


def read_keys(records: Mapping[bytes, bytes], used: Mapping[bytes, bytes]) -> list[ApiKey]:
    """The keys in Redis, newest first; unreadable ones are left out."""
    found = [(key, used.get(name)) for name, record in records.items() if (key := StoredApiKey.read(record))]
    public = [key.public(None if at is None else int(at)) for key, at in found]
    return sorted(public, key=lambda key: key.created_ms, reverse=True)


def now_ms() -> int:
    """The time in ms since the epoch."""
    return time.time_ns() // 1_000_000
