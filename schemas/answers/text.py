"""Text in which nothing is looked for."""

from .deltas import Content
from .source import GrowingText, Markers, Steps, run

_NOTHING = Markers()


def rest(source: GrowingText) -> Steps[None]:
    """Read what is left as the answer; after a call, without the white space around it."""
    _, space = yield from run(source, _NOTHING, Content, lead=source.calls > 0)
    if space and not source.calls:
        yield Content(space)
