"""Reasoning that precedes an answer, between a pair of markers."""

from .deltas import Reasoning
from .source import GrowingText, Markers, Steps, accept, run, skip_space

PAIRS = {"think": ("<think>", "</think>"), "mistral": ("[THINK]", "[/THINK]")}


def reasoning(source: GrowingText, name: str, *, begun: bool) -> Steps[bool]:
    """Read the reasoning, if there is any; without its end marker, all of the text is reasoning.

    Args:
        source: the text, at its beginning.
        name: which of `PAIRS` marks it.
        begun: whether the prompt holds the first marker.

    Returns:
        Whether there was any.
    """
    opens, closes = PAIRS[name]
    yield from skip_space(source)
    if not (yield from accept(source, opens)) and not begun:
        source.at = 0
        return False
    yield from run(source, Markers(closes), Reasoning, lead=True)
    return True
