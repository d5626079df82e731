"""Drop an outbox entry that has been handled."""

from ..keys import Tag
from ..redis.call import Call, script


def drop_entry(tag: Tag, entry_id: str) -> Call[None]:
    """Drop the entry. After the last one of an ended job, the job is kept only for its retention."""

    def parse(_: bytes | str) -> None:
        return None

    return script("drop_entry").call(tag.base, parse, entry=entry_id)
