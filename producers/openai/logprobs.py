"""Log-probabilities in OpenAI's two shapes: a chat's, with bytes, and that of completions, with offsets."""

import codecs
from collections.abc import Sequence
from typing import Any

from ...schemas.events import PromptLogprob, TokenLogprob


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """The `logprobs` of a chat completion's choice."""
    return {"content": token_logprobs(tokens), "refusal": None}


def token_logprobs(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """An entry for each token, with its bytes and the most likely tokens at its place."""

    def entry(token: str, spelt: bytes, logprob: float) -> dict[str, Any]:
        return {"token": token, "logprob": logprob, "bytes": list(spelt)}

    return [
        entry(token.token, token.bytes, token.logprob)
        | {
            "top_logprobs": [
                entry(text, spelt, logprob)
                for (_, text, logprob), spelt in zip(token.top, token.top_bytes, strict=True)
            ]
        }
        for token in tokens
    ]


class LegacyLogprobs:
    """The `logprobs` of completions, for a whole text or piece by piece.

    `text_offset` is the position in the text at which a token begins, or of the character that it is part
    of. A token that isn't in the text (a special one, or one that ended it) gets the position at which it
    came.

    Args:
        whole: the text comes all at once. In a stream, a token whose text is still held back is taken to be
            part of what follows.
    """

    def __init__(self, *, whole: bool) -> None:
        self._whole = whole
        self._text = ""
        self._at = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def shape(self, tokens: Sequence[TokenLogprob | PromptLogprob], text: str) -> dict[str, Any]:
        """Describe the next tokens, and the text that became final with them."""
        self._text += text
        names = [_name(token.token, token.bytes) for token in tokens]
        return {
            "tokens": names,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [_top(token) for token in tokens],
            "text_offset": [self._offset(token) for token in tokens],
        }

    def _offset(self, token: TokenLogprob | PromptLogprob) -> int:
        begins = self._at
        piece = self._decoder.decode(token.bytes)
        for written in (piece, piece.removeprefix(" ")):  # the first word of a text may lose its space
            if self._text.startswith(written, begins) or self._may_follow(written, begins):
                self._at += len(written)
                break
        return begins

    def _may_follow(self, written: str, begins: int) -> bool:
        return not self._whole and written.startswith(self._text[begins:])


def _top(token: TokenLogprob | PromptLogprob) -> dict[str, float] | None:
    """The most likely tokens at a token's place, itself always among them; None where nothing was likely."""
    if token.logprob is None:
        return None
    own = {_name(token.token, token.bytes): token.logprob}
    return {
        _name(text, spelt): logprob
        for (_, text, logprob), spelt in zip(token.top, token.top_bytes, strict=True)
    } | own


def _name(token: str, spelt: bytes) -> str:
    """A token's text, or its bytes if it has no text of its own, since no two tokens may look alike."""
    return token if token.encode() == spelt else "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelt)
