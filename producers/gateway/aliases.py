"""Model aliases: a request asks for a name, and a model answers it.

The key is checked for the name that was asked for, so a key for an alias needs no right to the models behind
it, and one for a model gives none to an alias. Whatever comes after, from the job's id to the answer's
`model`, has the name of the model.
"""

from collections.abc import Mapping
from typing import Any

from ...schemas.job import is_idempotency_key
from ...schemas.keys import is_model_name
from ...schemas.routes import Routed
from ..openai.fields import WHO
from .auth import Access
from .state import Gateway

HEADER = "x-headrace-model"
"""The response's header that names the model."""


async def route(
    gateway: Gateway,
    caller: Access,
    fields: Mapping[str, Any],
    *,
    cache_key: object = None,
    idempotency_key: object = None,
) -> Routed:
    """The model that answers a request with these arguments of a job.

    Raises:
        Refusal: the caller may not ask for it.
    """
    asked = fields.get("model")
    if not isinstance(asked, str) or not is_model_name(asked):
        return Routed("")  # `Job` says what is wrong with it
    caller.check_model(asked)
    key = idempotency_key if is_idempotency_key(idempotency_key) else None  # likewise
    who = _who(caller, fields.get("metadata"), cache_key)
    return await gateway.client.admin.routed_model(asked, who=who, tenant=caller.tenant, idempotency_key=key)


def _who(caller: Access, metadata: object, cache_key: object) -> str | None:
    """Whom the request is for: its user, else its prompt's cache key, else its API key."""
    given = metadata if isinstance(metadata, Mapping) else {}
    for each in (*(given.get(name) for name in WHO), cache_key):
        if isinstance(each, str) and each:
            return f"{caller.tenant}\n{each}"
    return caller.key_id
