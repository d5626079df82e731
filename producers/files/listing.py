"""Pages of what a tenant owns: files or batches."""

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from ..operations import Operations
from ..steps import Read, Steps

T = TypeVar("T")

Order = Literal["asc", "desc"]
"""Oldest or newest first."""


def page_of(
    operations: Operations,
    key: str,
    read: Callable[[list[str]], Steps[Sequence[T]]],
    *,
    after: str | None,
    limit: int,
    order: Order,
) -> Steps[tuple[list[T], bool]]:
    """Up to `limit` of what a sorted set of ids names, and whether there are more.

    The scores of the set `key` are all 0, so that it is sorted by id. `read` reads what some ids name,
    without what is gone or not wanted. The page begins after the id `after`, or at the first.
    """
    found: list[T] = []
    while True:
        # One more than wanted says whether there are more.
        ids = yield from _ids_after(operations, key, after, limit + 1, order)
        if ids:
            found += yield from read(ids)
            # Some of these may be gone or not wanted: continue after the last until the page is full.
            after = ids[-1]
        if len(found) > limit or len(ids) <= limit:
            return found[:limit], len(found) > limit


def _ids_after(
    operations: Operations, key: str, after: str | None, count: int, order: Order
) -> Steps[list[str]]:
    first = f"({after}" if after else ("-" if order == "asc" else "+")
    span = (first, "+") if order == "asc" else (first, "-", "BYLEX", "REV")
    command = ("ZRANGE", key, *span, *(("BYLEX",) if order == "asc" else ()), "LIMIT", 0, count)
    (ids,) = yield from operations.send(Read((command,)))
    return [each.decode() for each in ids]
