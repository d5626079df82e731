"""The most bytes of text that one token can stand for, if the tokenizer tells."""

import json
from typing import Any

_SHORTENING = {"Prepend": 1, "Replace": 1, "NFC": 4}
"""Normalizers that only change the form of text, and the factor by which they can shorten it at most."""

_WHOLE = {"ByteLevel", "Metaspace", "Digits", "Split"}
"""Pre-tokenizers that drop nothing (`Split` with the right behaviour)."""


def bytes_a_token(tokenizer_json: str) -> int | None:
    """The largest number of UTF-8 bytes that become one token; None if there is no such bound.

    There is none if text may vanish: dropped by a normalizer or pre-tokenizer, swallowed by an added token,
    or turned into one unknown token however long it is.

    Args:
        tokenizer_json: the text of a tokenizer.json.
    """
    parts: dict[str, Any] = json.loads(tokenizer_json)
    added, model = parts.get("added_tokens") or [], parts["model"]
    shortening = 1
    for normalizer in _each(parts.get("normalizer"), "normalizers"):
        shortening *= _shortening_of(normalizer)
    if (
        not shortening
        or any(token["lstrip"] or token["rstrip"] for token in added)
        or not all(map(_keeps_all, _each(parts.get("pre_tokenizer"), "pretokenizers")))
        or not _knows_every_byte(parts, model)
    ):
        return None
    longest = max(len(token.encode()) for token in (*model["vocab"], *(token["content"] for token in added)))
    return longest * shortening


def _each(part: dict[str, Any] | None, several: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    return list(part[several]) if part["type"] == "Sequence" else [part]


def _shortening_of(normalizer: dict[str, Any]) -> int:
    if normalizer["type"] == "Replace":
        spelt = normalizer["pattern"].get("String", "")
        if not spelt or len(normalizer["content"].encode()) < len(spelt.encode()):
            return 0
    return _SHORTENING.get(normalizer["type"], 0)


def _keeps_all(pre_tokenizer: dict[str, Any]) -> bool:
    return pre_tokenizer["type"] in _WHOLE and pre_tokenizer.get("behavior", "Isolated") != "Removed"


def _knows_every_byte(parts: dict[str, Any], model: dict[str, Any]) -> bool:
    if model.get("type") != "BPE":
        return False
    vocab = model["vocab"]
    if model.get("byte_fallback"):
        return all(f"<0x{byte:02X}>" in vocab for byte in range(256))
    from tokenizers.pre_tokenizers import ByteLevel

    steps = _each(parts.get("pre_tokenizer"), "pretokenizers")
    spelt = any(step["type"] == "ByteLevel" for step in steps)
    return spelt and all(letter in vocab for letter in ByteLevel.alphabet())
