"""Embeddings: what a job asks for instead of an answer, and how a vector is written."""

import base64
import binascii
import struct
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

MAX_DIMENSIONS = 65_536


class Embed(BaseModel):
    """How a job's prompt becomes a vector. `embed=True` is one with the defaults.

    Attributes:
        pooling: `last` takes the last token's hidden state, `mean` the mean of all tokens'; by default what
            the model is made for, as `1_Pooling/config.json` in its folder says, or else `last`.
        normalize: scale the vector to length 1.
        dimensions: keep only this many of its first numbers, for models that are trained for it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    pooling: Literal["last", "mean"] | None = None
    normalize: bool = True
    dimensions: Annotated[int, Field(ge=1, le=MAX_DIMENSIONS)] | None = None


def _of_flag(embed: object) -> object:
    return ({} if embed else None) if isinstance(embed, bool) else embed


OptionalEmbed = Annotated[Embed | None, BeforeValidator(_of_flag)]


def to_base64(vector: Sequence[float]) -> str:
    """A vector as OpenAI's API encodes it: float32, little-endian, in base64."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def from_base64(text: object) -> object:
    """The vector that `to_base64` encoded; anything but a string is returned as it is.

    Raises:
        ValueError: the string isn't one.
    """
    if not isinstance(text, str):
        return text
    try:
        packed = base64.b64decode(text, validate=True)
        return struct.unpack(f"<{len(packed) // 4}f", packed)
    except (binascii.Error, struct.error) as error:
        raise ValueError(f"isn't float32 in base64: {error}") from None


Vector = Annotated[
    tuple[float, ...], BeforeValidator(from_base64), PlainSerializer(to_base64, str, when_used="json")
]
"""A tuple of numbers in Python, `to_base64` of it in JSON."""
