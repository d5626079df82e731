"""Embeddings: what a job asks for instead of an answer, and how a vector is written."""

import base64
import binascii
import struct
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic.fields import FieldInfo

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

# What has a meaning though nothing is generated.
_OF_A_PROMPT = {
    "model",
    "prompt",
    "messages",
    "prompt_token_ids",
    "tools",
    "truncate_prompt_tokens",
    "truncation_side",
}
_OF_ANY_JOB = {
    "embed",
    "job_class",
    "tenant",
    "idempotency_key",
    "delay_s",
    "deadline_s",
    "max_runtime_s",
    "max_attempts",
    "webhook",
    "stream",
    "metadata",
}


def with_no_output(fields: Any) -> Any:
    """A job's fields; one for an embedding costs its prompt and no more, so that is all that is reserved."""
    if isinstance(fields, Mapping) and fields.get("embed") not in (None, False):
        return {"max_tokens": 1, **fields}
    return fields


def refuse_output(job: object, arguments: Mapping[str, FieldInfo]) -> None:
    """Refuse a job for an embedding that says something of what is generated.

    Args:
        job: the job.
        arguments: the fields of every job.

    Raises:
        ValueError: naming the argument.
    """
    for name, argument in arguments.items():
        usual = 1 if name == "max_tokens" else argument.get_default(call_default_factory=True)
        if name not in _OF_A_PROMPT | _OF_ANY_JOB and getattr(job, name) != usual:
            raise ValueError(f"{name} has no meaning beside embed, which generates nothing; leave it out")


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
