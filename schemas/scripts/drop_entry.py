"""Drop an outbox entry that has been seen to."""

from ..keys import Tag
from ..redis.call import Call, script


def drop_entry(tag: Tag, entry_id: str) -> Call[None]:
    """Drop the entry; with the last one of an ended job, the job is kept for its retention and no longer."""

    def parse(_: bytes | str) -> None:
        return None

    return script("drop_entry").call(tag.base, parse, entry=entry_id)
