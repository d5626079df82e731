"""Model aliases: a request asks for a name, and a model answers it.

The key is checked for the name that was asked for, so a key for an alias needs no right to the models behind
it, and one for a model gives none to an alias. Whatever comes after, from the job's id to the answer's
`model`, has the name of the model.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ...schemas.job import Job, is_idempotency_key
from ...schemas.keys import is_model_name
from ..async_client import AsyncJobHandle, is_served
from ..routing import AliasFound, whom
from .auth import Access
from .jobs import enqueue_all
from .state import Gateway

HEADER = "x-headrace-model"
"""The response's header that names the model."""


Make = Callable[[str], Awaitable[Sequence[Job]]]
"""Makes the jobs of a request for a model."""


async def enqueue_routed(
    gateway: Gateway,
    caller: Access,
    fields: Mapping[str, Any],
    make: Make,
    *,
    cache_key: object = None,
    idempotency_key: object = None,
) -> tuple[list[AsyncJobHandle], str]:
    """Enqueue the jobs of a request for the model that answers it, all or none; return that as well.

    Raises:
        Refusal, HeadraceError: the caller may not ask for the model; see `enqueue_all`.
    """
    asked = fields.get("model")
    if not isinstance(asked, str) or not is_model_name(asked):
        await make("")  # `Job` says what is wrong with it
        raise AssertionError(asked)
    caller.check_model(asked)
    # Without asking first: if a model's name has become an alias, nothing is enqueued.
    if idempotency_key is None and is_served(gateway.client, asked):
        try:
            return await enqueue_all(gateway, caller, await make(asked)), asked
        except AliasFound:
            pass
    key = idempotency_key if is_idempotency_key(idempotency_key) else None  # likewise
    who = _who(caller, fields.get("metadata"), cache_key)
    admin = gateway.client.admin
    routed = await admin.routed_model(asked, who=who, tenant=caller.tenant, idempotency_key=key)
    jobs = await make(routed.model)
    accepted = await enqueue_all(gateway, caller, jobs, routed.model)
    await admin.keep_routed(routed)
    return accepted, routed.model


def _who(caller: Access, metadata: object, cache_key: object) -> str | None:
    """Whom the request is for: its user, else its prompt's cache key, else its API key."""
    user = whom(caller.tenant, metadata if isinstance(metadata, Mapping) else {})
    if user is None and isinstance(cache_key, str) and cache_key:
        return f"{caller.tenant}\n{cache_key}"
    return user or caller.key_id
