"""Finds the reasoning in an answer's tokens, as `schemas.answers` finds it in their text."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ....schemas.answers import AnswerFormat, harmony
from ....schemas.answers.reasoning import PAIRS

MAY_COME, WITHIN, OVER = "may come", "within", "over"

_MESSAGE, _START = harmony.MESSAGE.encode(), harmony.START.encode()
_ENDS = re.compile(b"|".join(re.escape(each.encode()) for each in (*harmony.ENDS, harmony.START)))
_HEADS = tuple(each.encode() for each in harmony.HEADS)
_ANALYSIS = re.compile(rb"\s*(?:<\|start\|>\w*)?\s*<\|channel\|>\s*analysis\b(?!.*\bto=)", re.DOTALL)


class ReasoningSpan:
    """Follows one answer's tokens. What it knows is a function of them.

    Attributes:
        state: whether reasoning may still come, the last token is within it, or none will come any more.
        count: how many tokens it has, without those that complete its markers.
        spans: how many times it has begun: only in the harmony format more than once.
        head: in the harmony format, what has been written of a message's head; None within a message.
        rest: bytes behind the marker that ended it, within the same token.
    """

    __slots__ = ("_bytes", "_closes", "_first", "_opens", "_text", "count", "head", "rest", "spans", "state")

    def __init__(self, answer_format: AnswerFormat, token_bytes: Callable[[int], bytes]) -> None:
        self._bytes, self._text = token_bytes, b""
        self.state, self.count, self.spans, self.rest = MAY_COME, 0, 0, b""
        self.head: bytes | None = None
        self._first = True
        self._opens = self._closes = b""
        if "harmony" in (answer_format.reasoning, answer_format.tools):
            self.head = b""
        elif answer_format.reasoning in PAIRS:
            self._opens, self._closes = (each.encode() for each in PAIRS[answer_format.reasoning])
            if answer_format.begun:
                self.state, self.spans = WITHIN, 1
        else:
            self.state = OVER

    def take(self, token_id: int) -> None:
        """Follow the next token."""
        if self.state is OVER:
            return
        data = self._bytes(token_id)
        if not self._closes:
            self._take_message(data)
        elif self.state is WITHIN:
            self._text += data
            before, found, self.rest = self._text.partition(self._closes)
            if found:
                self.state = OVER
            else:
                self.count += 1
                self._text = before[-len(self._closes) :]
        else:
            self._text = (self._text + data).lstrip(b" \t\r\n")
            if self._text.startswith(self._opens):
                # As the text says it, the token that completes the marker may hold more.
                self.state, self.spans, self._text = WITHIN, 1, self._text[len(self._opens) :]
            elif not self._opens.startswith(self._text):
                self.state = OVER

    def _take_message(self, data: bytes) -> None:
        """Follow a token of the harmony format, in which a message has a head and a body."""
        if self.head is not None:
            self.head += data
            head, found, body = self.head.partition(_MESSAGE)
            if self._first and not self.head.startswith(tuple(h[: len(self.head)] for h in _HEADS)):
                self.state = OVER  # an answer without messages
            elif found:
                self.head, self._text, self._first = None, body, False
                if _ANALYSIS.match(head):
                    self.state, self.spans = WITHIN, self.spans + 1
            elif len(self.head) > harmony.MAX_HEAD:
                self.state = OVER
            return
        self._text += data
        ended = _ENDS.search(self._text)
        if ended is None:
            self.count += self.state is WITHIN
            self._text = self._text[-len(_START) :]
            return
        self.state, self.head = MAY_COME, self._text[ended.start() :] if ended.group() == _START else b""


def reasoning_tokens(
    travelled: Mapping[str, Any] | None, token_ids: Iterable[int], token_bytes: Callable[[int], bytes]
) -> int:
    """How many tokens of an answer are reasoning.

    Args:
        travelled: how the answer is read, as it travels.
        token_ids: the answer.
        token_bytes: the bytes that a token stands for.
    """
    if travelled is None or travelled.get("reasoning") is None:
        return 0
    span = ReasoningSpan(AnswerFormat.model_validate(travelled), token_bytes)
    for token_id in token_ids:
        span.take(token_id)
        if span.state is OVER:
            break
    return span.count
