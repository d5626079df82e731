"""End a running job."""

from ..events import End, Output
from ..keys import Tag
from ..redis.call import Call, script
from .advance import Advance, Segment, parse_answer


def finish(tag: Tag, segment: Segment, end: End, output: Output) -> Call[Advance]:
    """Write the last tokens, the terminal state, the result, the end marker and the outbox entry together.

    A second call is answered `ALREADY` and changes nothing.
    """
    args = (
        segment.job_id,
        segment.fence,
        segment.start,
        segment.offset,
        segment.payload,
        end.end.value,
        output.model_dump_json(exclude_none=True),
        end.error.model_dump_json() if end.error else "",
        end.model_dump_json(exclude_none=True),
        output.usage.prompt_tokens,
    )
    return Call(script("finish"), tag.base, args, parse_answer)
