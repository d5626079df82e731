"""The page's files, read once and served from memory; no other names have a URL."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import PurePath

INDEX = "index.html"

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""The content security policy of the page: nothing from elsewhere, and nothing inline."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One file.

    Attributes:
        content: its bytes.
        headers: those of its response; `etag` names the content, so a browser asks again and gets 304.
    """

    content: bytes
    headers: Mapping[str, str]

    @property
    def etag(self) -> str:
        """What `If-None-Match` says of a browser that has it."""
        return self.headers["etag"]


@cache
def assets() -> Mapping[str, Asset]:
    """The files by name."""
    folder = files(__package__) / "page"
    found = ((entry.name, entry.read_bytes()) for entry in folder.iterdir() if entry.is_file())
    return {name: _asset(name, content) for name, content in found if PurePath(name).suffix in TYPES}


def _asset(name: str, content: bytes) -> Asset:
    headers = {
        "content-type": TYPES[PurePath(name).suffix],
        "content-security-policy": POLICY,
        "cache-control": "no-cache",
        "etag": f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"',
        "cross-origin-resource-policy": "same-origin",
    }
    return Asset(content, headers)
