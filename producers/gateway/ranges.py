"""The part of a file that a client asks for with `Range`: what is left of a download that broke off."""

import re

from starlette.requests import Request

from .errors import Refusal

_RANGE = re.compile(r"bytes=(?:(\d{1,15})-(\d{1,15})?|-(\d{1,15}))")


def range_of(request: Request, size: int) -> range | None:
    """The positions that are asked for; None for the whole content.

    A header that isn't understood, or names several parts, is ignored, as HTTP allows. So is one with
    `If-Range`: no version of a file has a name.

    Raises:
        Refusal: the content ends before the part begins.
    """
    asked = _RANGE.fullmatch(request.headers.get("range", ""))
    if asked is None or "if-range" in request.headers:
        return None
    first, last, tail = (None if number is None else int(number) for number in asked.groups())
    if first is None:
        part = range(max(0, size - (tail or 0)), size)
    else:
        if last is not None and last < first:
            return None
        part = range(first, size if last is None else min(size, last + 1))
    if not part:
        message = f"range: the file has {size} bytes."
        headers = {"content-range": f"bytes */{size}"}
        raise Refusal(416, message, code="range_not_satisfiable", headers=headers)
    return part
