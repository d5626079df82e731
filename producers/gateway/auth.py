"""Who asks, and what they may."""

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends
from starlette.requests import Request

from ...schemas.job import JobClass
from .errors import Refusal, unknown_model
from .state import Gateway

DEFAULT_TENANT = "default"


@dataclass(frozen=True, slots=True)
class Access:
    """What the caller of a request may do.

    Attributes:
        tenant: whose jobs, responses, files and batches it sees.
        models: the models that it may use; None is all.
        classes: the job classes that it may use.
        webhook_hosts: the hosts that its webhooks may go to; None is all.
    """

    tenant: str
    models: frozenset[str] | None = None
    classes: tuple[JobClass, ...] = tuple(JobClass)
    webhook_hosts: frozenset[str] | None = None

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
        Refusal: 401, there is no key or it is wrong.
    """
    gateway = Gateway.of(request)
    if gateway.settings.gateway_auth:
        message = "Give an API key: `Authorization: Bearer <key>`; `headrace keys create` makes one."
        headers = {"www-authenticate": "Bearer"}
        raise Refusal(401, message, code="missing_api_key", headers=headers)
    access = Access(DEFAULT_TENANT)
    request.state.tenant = access.tenant
    return access


Caller = Annotated[Access, Depends(authorize)]
"""The access of a route's caller; every route of `/v1` takes one."""
