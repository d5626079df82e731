"""GPT-OSS: channels. `analysis` is reasoning, `final` the answer, and what is sent to a function is a call.

<|channel|>analysis<|message|>…<|end|>
<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{…}<|call|>
"""

import re

from .deltas import Arguments, CallBegin, Content, Reasoning
from .format import AnswerFormat
from .source import GrowingText, Markers, Steps, peek, run
from .text import rest

CHANNEL, MESSAGE, START, CONSTRAIN = "<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"
ENDS = ("<|end|>", "<|call|>", "<|return|>")

MARKERS = (CHANNEL, MESSAGE, START, CONSTRAIN, *ENDS)

HEADS = (CHANNEL, START, " to=", CONSTRAIN)
"""How an answer begins that consists of messages."""

MAX_HEAD = 1024
"""Characters of what precedes a message; a longer one is text."""

_HEAD = Markers(MESSAGE)
_BODY = Markers(*ENDS, START)
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")


def answer(source: GrowingText, _: AnswerFormat) -> Steps[None]:
    """Read an answer: one message after the other."""
    first = True
    while (yield from peek(source)):
        if first and not (yield from _is_head(source)):
            break
        heads: list[str] = []
        begins = source.at
        marker = yield from _head(source, heads)
        if not marker:
            if first:
                source.at = begins
            break
        first = False
        yield from _message(source, "".join(heads))
    yield from rest(source)


def _is_head(source: GrowingText) -> Steps[bool]:
    """Whether a message begins here: a prompt ends with `<|start|>assistant`, so its role may be missing."""
    while True:
        ahead = source.text[source.at :]
        if ahead.startswith(HEADS):
            return True
        if source.ended or not any(each.startswith(ahead) for each in HEADS):
            return False
        yield None


def _head(source: GrowingText, heads: list[str]) -> Steps[str]:
    """Read a message's head, without telling of it."""
    while True:
        found = _HEAD.pattern.search(source.text, source.at, source.at + MAX_HEAD)
        if found:
            heads.append(source.text[source.at : found.start()])
            source.at = found.end()
            return MESSAGE
        if source.ended or len(source.text) - source.at >= MAX_HEAD:
            return ""
        yield None


def _message(source: GrowingText, head: str) -> Steps[None]:
    channel, recipient = _CHANNEL.search(head), _RECIPIENT.search(head)
    if recipient and not source.full():
        index = source.calls
        source.calls += 1
        yield CallBegin(index, recipient[1].removeprefix("functions."))
        yield from run(source, _BODY, lambda text: Arguments(index, text), lead=True)
        return
    made: type[Content | Reasoning] = Content
    if channel and channel[1] == "analysis":
        made = Reasoning
    yield from run(source, _BODY, made, lead=True)
