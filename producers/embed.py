"""What `embed` of both clients has in common: texts as jobs."""

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, Literal

from ..schemas.errors import InvalidJob, JobsRefused
from ..schemas.events import JobResult

Input = str | Sequence[int]
"""A text, or its token ids."""


def embed_jobs(
    inputs: str | Sequence[Input],
    pooling: Literal["last", "mean"] | None,
    normalize: bool,
    dimensions: int | None,
    arguments: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """The arguments of `enqueue` for each input; a single text is a list of one.

    Raises:
        InvalidJob: something is neither a text nor token ids.
    """
    asked = {"pooling": pooling, "normalize": normalize, "dimensions": dimensions}
    return [
        {"stream": False, **arguments, _field_of(place, each): each, "embed": asked}
        for place, each in enumerate([inputs] if isinstance(inputs, str) else inputs)
    ]


def _field_of(place: int, given: object) -> str:
    if isinstance(given, str):
        return "prompt"
    if isinstance(given, Sequence) and not isinstance(given, bytes):
        return "prompt_token_ids"
    raise InvalidJob(f"inputs[{place}]", f"must be a text or its token ids, not {type(given).__name__}")


def first_of(refused: JobsRefused) -> Exception:
    """Why the first of the inputs was refused."""
    return next(outcome for outcome in refused.outcomes if isinstance(outcome, Exception))


def seconds_until(moment: float | None) -> float | None:
    """How much of a limit is left; None without one."""
    return None if moment is None else max(0.0, moment - monotonic())


def vector_of(result: JobResult) -> list[float]:
    """The vector of a job that succeeded."""
    return list(result.embedding or ())
