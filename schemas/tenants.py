"""Tenants' policies: what operators set, and the copies that the scripts can read."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Annotated, Any, Self, TypedDict

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from redis import Redis

from . import keys
from .errors import BadPolicy
from .job import TenantName
from .keys import NAMESPACE, Tag
from .redis.call import text
from .redis.connection import broker_errors
from .wording import in_words

DEFAULT = "*"
"""The tenant whose policy applies to all tenants without one of their own."""

VERSION = "*version"
"""The field that counts changes."""


class TenantLimits(TypedDict, total=False):
    """The fields of a `TenantPolicy` as arguments; None means not given."""

    weight: float | None
    max_running: int | None
    requests_per_minute: float | None
    tokens_per_minute: float | None
    max_queued_jobs: int | None
    max_queued_bytes: int | None
    max_open_batches: int | None
    max_files: int | None
    max_stored_bytes: int | None


class TenantPolicy(BaseModel):
    """One tenant's limits, which apply to each model separately, but for the last three; None is no limit.

    Attributes:
        weight: its share of the workers, relative to other tenants, when there isn't enough for all.
        max_running: maximum number of its running jobs.
        requests_per_minute: jobs that it may enqueue per minute; a minute's worth may come at once.
        tokens_per_minute: prompt tokens (estimated if the prompt is text) and `max_tokens` that it may
            enqueue per minute.
        max_queued_jobs: maximum number of its waiting jobs, over all classes.
        max_queued_bytes: maximum size of its waiting jobs as JSON.
        max_open_batches: maximum number of its batches that have not ended.
        max_files: maximum number of its stored files when it uploads one.
        max_stored_bytes: maximum size of its stored files when it uploads one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    max_running: Annotated[int, Field(ge=1)] | None = None
    requests_per_minute: Annotated[float, Field(gt=0)] | None = None
    tokens_per_minute: Annotated[float, Field(gt=0)] | None = None
    max_queued_jobs: Annotated[int, Field(ge=0)] | None = None
    max_queued_bytes: Annotated[int, Field(ge=0)] | None = None
    max_open_batches: Annotated[int, Field(ge=0)] | None = None
    max_files: Annotated[int, Field(ge=0)] | None = None
    max_stored_bytes: Annotated[int, Field(ge=0)] | None = None

    @classmethod
    def make(cls, **fields: object) -> Self:
        """Make a validated policy; a field that is None was not given.

        Raises:
            BadPolicy: naming the first field that is wrong.
        """
        try:
            return cls.model_validate({name: value for name, value in fields.items() if value is not None})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = ".".join(str(part) for part in first["loc"])
            raise BadPolicy(f"{name} = {first.get('input')!r}: {in_words(first)}") from None

    def to_wire(self) -> str:
        """The policy as JSON, without defaults."""
        return self.model_dump_json(exclude_defaults=True)

    def shared_among(self, partitions: int) -> "TenantPolicy":
        """The policy for each of a model's partitions."""
        if partitions == 1:
            return self
        shared: dict[str, Any] = {
            # Each partition enforces its own part. Rates may be fractions; what counts whole jobs is rounded
            # up, or a limit of 1 over two partitions would let nothing run.
            name: value / partitions
            for name in ("requests_per_minute", "tokens_per_minute")
            if (value := getattr(self, name)) is not None
        } | {
            name: -(-value // partitions)
            for name in ("max_running", "max_queued_jobs", "max_queued_bytes")
            if (value := getattr(self, name)) is not None
        }
        return self.model_copy(update=shared)


def check_tenant(name: str) -> None:
    """Refuse a name that no job can have, including the field that counts changes.

    Raises:
        BadPolicy: the message says what a name looks like.
    """
    try:
        TypeAdapter(TenantName).validate_python(name)
    except ValidationError:
        if name != DEFAULT:
            raise BadPolicy(
                f"{name!r} is not a tenant's name: 1 to 64 letters, digits or _.@-, or {DEFAULT} for the rest"
            ) from None


def read_policies(fields: Mapping[Any, Any]) -> dict[str, TenantPolicy]:
    """The policies in `hr:tenants` by tenant, from redis-py's reply; unreadable ones are left out."""
    policies = {}
    for name, policy in fields.items():
        with suppress(ValidationError):
            if text(name) != VERSION:
                policies[text(name)] = TenantPolicy.model_validate_json(policy)
    return dict(sorted(policies.items()))


def copy_policies(
    redis: Redis, tags: Iterable[Tag], namespace: str = NAMESPACE, *, partitions: int = 1
) -> int:
    """Bring the copies in these tags up to date; return how many were not.

    This is cheap if nothing has changed, because versions are compared first.

    Raises:
        BrokerUnavailable: Redis can't be reached or refuses.
    """
    with broker_errors():
        version = redis.hget(keys.tenants(namespace), VERSION)
        behind = [tag for tag in tags if redis.hget(tag.tenants, VERSION) != version]
        if not behind:
            return 0
        policies = read_policies(redis.hgetall(keys.tenants(namespace)))
        copy: dict[Any, Any] = {
            name: policy.shared_among(partitions).to_wire() for name, policy in policies.items()
        }
        for tag in behind:
            # In one transaction: a script must never see a tag between the old limits and the new, without
            # any.
            pipe = redis.pipeline(transaction=True)
            pipe.delete(tag.tenants)
            if version is not None:
                pipe.hset(tag.tenants, mapping={**copy, VERSION: version})
            pipe.execute()
    return len(behind)
