"""End a running job."""

from ..events import End, Output
from ..keys import Tag
from ..redis.call import Call, script
from .advance import Advance, Segment, parse_answer


def finish(tag: Tag, segment: Segment, end: End, output: Output) -> Call[Advance]:
    """Write the last tokens, the terminal state, the result, the end marker and the outbox entry together.

    A second call is answered `ALREADY` and changes nothing.
    """
    # One script, because a reader that sees the end must find the result, and an end without its outbox entry
    # would lose the webhook.
    return script("finish").call(
        tag.base,
        parse_answer,
        **segment.args,
        state=end.end.value,
        output=output.model_dump_json(exclude_none=True),
        error=end.error.model_dump_json() if end.error else "",
        end_payload=end.model_dump_json(exclude_none=True),
        prompt_tokens=output.usage.prompt_tokens,
    )
