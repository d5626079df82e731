"""Queue the job of a dead letter again."""

from ..errors import JobNotFound
from ..keys import Tag
from ..redis.call import Call, new_request, script, text


def requeue_dead(tag: Tag, entry_id: str, *, from_scratch: bool = False) -> Call[str]:
    """Queue the job of dead letter `entry_id` again, with or without its progress; return the job's id.

    Raises:
        JobNotFound: there is no such dead letter, or its job no longer exists.
    """

    def parse(reply: bytes | str) -> str:
        answer = text(reply)
        if answer in {"missing", "gone"}:
            raise JobNotFound(entry_id)
        return answer

    return script("requeue_dead").call(
        tag.base, parse, entry=entry_id, from_scratch=int(from_scratch), request=new_request()
    )
