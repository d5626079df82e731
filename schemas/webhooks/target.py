"""A webhook's URL, parsed once, so that what is checked is what is connected to."""

import re
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.(?!-)[a-z0-9_-]{1,63})*\.?")
"""A host name in lower case, or an IPv4 address in any spelling."""

_PORT_OF = {"http": 80, "https": 443}


class Refused(Exception):
    """Webhooks may not be sent to a URL; the message says why, without parts that may be secret."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a webhook goes.

    Attributes:
        secure: whether it is https.
        host: a name in lower case, or an address without brackets.
        path: the path, including the query.
    """

    secure: bool
    host: str
    port: int
    path: str

    @classmethod
    def of(cls, url: str) -> "Target":
        """Parse an absolute http or https URL.

        Raises:
            Refused: it isn't one, or it has a user or password.
        """
        if not re.fullmatch(r"[!-~]+", url):
            raise Refused("the URL has characters that must be percent-encoded")
        try:
            parts = urlsplit(url)
            port, host = parts.port, parts.hostname or ""
        except ValueError:
            raise Refused("the URL can't be read") from None
        if parts.scheme not in _PORT_OF:
            raise Refused("the URL is not an https URL")
        # It would go into logs and lists with the URL; a secret belongs in `secret`, which signs.
        if "@" in parts.netloc:
            raise Refused("the URL has a user or password")
        if ":" not in host and not (NAME.fullmatch(host) and len(host) < 254):
            raise Refused("the URL's host is not a name or address (international names: the xn-- form)")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.scheme == "https", host, _PORT_OF[parts.scheme] if port is None else port, path)

    @property
    def authority(self) -> str:
        """The value of the header `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORT_OF["https" if self.secure else "http"] else f"{host}:{self.port}"


def check_url(url: str) -> None:
    """Refuse a URL that nothing can be sent to, regardless of what an operator allows.

    Raises:
        Refused: the message says why.
    """
    target = Target.of(url)
    if target.port == 0:
        raise Refused("the URL's port is 0")
    if re.search(
        r"^[^:]*(?:^|\.)(\d+|0x[0-9a-f]*)\.?$", target.host
    ):  # a host that ends in a number is an address
        try:
            socket.inet_aton(target.host.removesuffix("."))
        except OSError:
            raise Refused("the URL's host is not a valid address") from None
