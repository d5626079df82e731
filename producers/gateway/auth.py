"""Who sends a request, and what they may do."""

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends
from starlette.requests import Request

from ...schemas.errors import Unauthorized
from ...schemas.job import JobClass
from .errors import Refusal, unknown_model
from .state import Gateway

DEFAULT_TENANT = "default"

_CHALLENGE = {"www-authenticate": "Bearer"}


@dataclass(frozen=True, slots=True)
class Access:
    """What the caller of a request may do.

    Attributes:
        tenant: whose jobs, responses, files and batches it sees.
        models: the models that it may use; None means all.
        classes: the job classes that it may use.
        webhook_hosts: the hosts that its webhooks may go to; None means all.
        operator: whether it may see and do what operators do.
        key_id: the id of its API key; None without keys.
    """

    tenant: str
    models: frozenset[str] | None = None
    classes: tuple[JobClass, ...] = tuple(JobClass)
    webhook_hosts: frozenset[str] | None = None
    operator: bool = False
    key_id: str | None = None

    def sees_model(self, model: str) -> bool:
        """Whether it may use the model."""
        return self.models is None or model in self.models

    def check_model(self, model: str) -> None:
        """Refuse a model that it may not use, as one that doesn't exist.

        Raises:
            Refusal: 404.
        """
        if not self.sees_model(model):
            raise unknown_model(model)

    def check_webhook(self, url: str) -> None:
        """Refuse a webhook to a host that it may not use.

        Raises:
            Refusal: 403.
        """
        if self.webhook_hosts is not None and _host_of(url) not in self.webhook_hosts:
            message = "webhook.url: this API key may not send webhooks to that host."
            raise Refusal(403, message, code="webhook_not_allowed", param="webhook.url")


def _host_of(url: str) -> str:
    return (urlsplit(url).hostname or "").lower()


async def authorize(request: Request) -> Access:
    """The access of the request's API key.

    Raises:
        Refusal: 401, there is no key, or it is wrong, expired or revoked.
    """
    gateway = Gateway.of(request)
    access = Access(DEFAULT_TENANT, operator=True)
    if gateway.settings.gateway_auth:
        access = await _of_key(gateway, given_key(request))
    request.state.tenant = access.tenant
    return access


async def _operator(caller: Annotated[Access, Depends(authorize)]) -> Access:
    """The access of an operator's key.

    Raises:
        Refusal: 401 as above; 403, the key is not an operator's.
    """
    if not caller.operator:
        raise Refusal(403, "This needs an operator's API key.", code="not_an_operator")
    return caller


def given_key(request: Request) -> str:
    """The request's API key, as OpenAI's clients send it or as Anthropic's do.

    Raises:
        Refusal: 401, there is none.
    """
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    if key := request.headers.get("x-api-key", ""):
        return key
    message = "Give an API key: `Authorization: Bearer <key>`."
    raise Refusal(401, message, code="missing_api_key", headers=_CHALLENGE)


async def _of_key(gateway: Gateway, text: str) -> Access:
    try:
        key = await gateway.client.admin.check_api_key(text)
    except Unauthorized:
        message = "The API key is wrong, expired or revoked."
        raise Refusal(401, message, code="invalid_api_key", headers=_CHALLENGE) from None
    return Access(
        tenant=key.tenant,
        models=None if key.models is None else frozenset(key.models),
        classes=key.classes or tuple(JobClass),
        webhook_hosts=None if key.webhook_hosts is None else frozenset(map(str.lower, key.webhook_hosts)),
        operator=key.operator,
        key_id=key.id,
    )


Caller = Annotated[Access, Depends(authorize)]
"""The access of a route's caller; every route of `/v1` takes one."""

Operator = Annotated[Access, Depends(_operator)]
"""The access of a route's caller, who is an operator."""
