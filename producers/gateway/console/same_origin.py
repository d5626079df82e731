"""Which pages a browser may call the console from: only its own, no matter what else is open."""

import ipaddress
from urllib.parse import urlsplit

from starlette.requests import Request

from ..errors import Refusal
from ..state import Gateway


def check_origin(request: Request) -> None:
    """Refuse requests that a page from elsewhere makes a browser send.

    Without API keys the address is all that protects the console, so a page must not reach it under a name
    that leads here either: the host has to be a loopback address.

    Raises:
        Refusal: 403.
    """
    host = request.headers.get("host", "")
    # Browsers send it, and no page can change it. A program that sends neither header is driven by no page.
    site = request.headers.get("sec-fetch-site", "same-origin")
    origin = request.headers.get("origin")
    if site not in {"same-origin", "none"} or (origin is not None and _place(origin) != host):
        raise _elsewhere("The console takes requests from its own page alone.")
    if not Gateway.of(request).settings.gateway_auth and not _is_loopback(host):
        raise _elsewhere("Without API keys the console is served to loopback addresses alone.")


def _place(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _elsewhere(message: str) -> Refusal:
    return Refusal(403, message, code="wrong_origin")
