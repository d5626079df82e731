"""The bytes that single tokens stand for, including parts of a character and the space before a word."""

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

_SPELT = re.compile(r"<0x([0-9A-F]{2})>")

_KEPT = 1 << 15


def _alphabet() -> dict[str, int]:
    """The letter that stands for each byte in byte-level vocabularies (GPT-2's `bytes_to_unicode`)."""
    # These stand for themselves. The other 68, the space among them, get the letters from U+0100 on: a space
    # is Ġ.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in printable)
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_BYTES = _alphabet()


def token_bytes(backend: Any, special_ids: frozenset[int]) -> Callable[[int], bytes]:
    """Says which bytes each token of a tokenizer stands for: special ones for their names, unknown ones for
    none.

    Args:
        backend: a tokenizer of the `tokenizers` library.
        special_ids: tokens without text.
    """
    steps = _decoders(backend)
    kinds = {step.get("type") for step in steps}
    spaces = [mark for step in steps if (mark := _space(step))]

    @lru_cache(_KEPT)
    def of(token_id: int) -> bytes:
        token: str | None = backend.id_to_token(token_id)
        if token is None:
            return b""
        if token_id in special_ids:
            return token.encode()
        if "ByteLevel" in kinds:
            return bytes(map(_BYTES.__getitem__, token)) if _BYTES.keys() >= set(token) else token.encode()
        if "ByteFallback" in kinds and (spelt := _SPELT.fullmatch(token)):
            return bytes.fromhex(spelt[1])
        if spaces:
            return token.replace(spaces[0], " ").encode()
        text: str = backend.decode([token_id], skip_special_tokens=False)
        return text.encode()

    return of


def _decoders(backend: Any) -> list[dict[str, Any]]:
    try:
        decoder = json.loads(backend.decoder.__getstate__())
    except Exception:  # none, or one written in Python
        return []
    return list(decoder.get("decoders", [])) if decoder.get("type") == "Sequence" else [decoder]


def _space(decoder: dict[str, Any]) -> str | None:
    """The character that stands for a space, if this is the step that inserts it."""
    if decoder.get("type") == "Metaspace":
        return str(decoder.get("replacement", "▁"))
    if decoder.get("type") == "Replace" and decoder.get("content") == " ":
        return decoder.get("pattern", {}).get("String") or None
    return None
