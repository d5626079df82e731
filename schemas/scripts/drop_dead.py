"""Delete a dead letter."""

from ..errors import JobNotFound
from ..keys import Tag
from ..redis.call import Call, new_request, script
from .ended import readable


def drop_dead(tag: Tag, entry_id: str) -> Call[str]:
    """Delete dead letter `entry_id` and the record and log of its failed job; return the job's id.

    Raises:
        JobNotFound: there is no such dead letter.
    """

    def parse(reply: bytes | str) -> str:
        answer = readable(reply)
        if answer == "missing":
            raise JobNotFound(entry_id)
        return answer

    return script("drop_dead").call(tag.base, parse, entry=entry_id, request=new_request())
