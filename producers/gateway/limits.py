"""OpenAI's `x-ratelimit-*` headers, from what is left of the tenant's rates."""

import time

from starlette.requests import Request

from ...schemas.errors import HeadraceError
from .auth import Access
from .state import Gateway

UNLIMITED_S = 5.0
"""How long a tenant without rates is assumed to have none."""


async def note_limits(request: Request, caller: Access, model: str) -> None:
    """Add to the response what is left; nothing for a tenant without rates."""
    gateway = Gateway.of(request)
    now = time.monotonic()
    # Most tenants have no rates, and pay no round trip for it.
    if gateway.unlimited.get(caller.tenant, 0.0) > now:
        return
    try:
        rates = await gateway.client.admin.rates(caller.tenant, model)
    except HeadraceError:  # the headers are a courtesy
        return
    headers: dict[str, str] = {}
    for name in ("requests", "tokens"):
        if (rate := getattr(rates, name)) is not None:
            headers[f"x-ratelimit-limit-{name}"] = str(int(rate.limit))
            headers[f"x-ratelimit-remaining-{name}"] = str(int(rate.left))
            headers[f"x-ratelimit-reset-{name}"] = f"{rate.full_s:.3f}s"
    if not headers:
        gateway.unlimited[caller.tenant] = now + UNLIMITED_S
    gateway.add_headers(request, headers)
