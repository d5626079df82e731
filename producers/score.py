"""What `score` and `rerank` of both clients have in common: continuations, and documents, as jobs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..schemas.errors import InvalidJob
from ..schemas.events import JobResult
from .embed import Input


@dataclass(slots=True, frozen=True)
class Score:
    """How likely a model finds a continuation after its prompt.

    Attributes:
        logprob: the natural logarithm of its probability, the sum of `logprobs`.
        token_ids: its tokens.
        logprobs: the log-probability of each, after the prompt and those before it.
        is_greedy: whether each is the most likely token at its place; None with `prompt_logprobs=0`.
    """

    logprob: float
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    is_greedy: bool | None


def score_jobs(
    prompt: Input | None, continuations: Input | Sequence[Input], arguments: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The arguments of `enqueue` for each continuation; a single text is a list of one.

    Raises:
        InvalidJob: something is neither a text nor token ids.
    """
    given = [continuations] if isinstance(continuations, str) else continuations
    usual = {"stream": False, "prompt_logprobs": 1, **arguments}
    if prompt is not None:
        usual["prompt" if isinstance(prompt, str) else "prompt_token_ids"] = prompt
    for place, each in enumerate(given):
        if not isinstance(each, str | Sequence) or isinstance(each, bytes):
            raise InvalidJob(
                f"continuations[{place}]", f"must be a text or its token ids, not {type(each).__name__}"
            )
    return [{**usual, "continuation": each} for each in given]


def score_of(result: JobResult) -> Score:
    """The score of a job that succeeded."""
    entries = result.prompt_logprobs or ()
    logprobs = tuple(entry.logprob or 0.0 for entry in entries)
    asked = bool(entries) and all(entry.top for entry in entries)
    return Score(
        logprob=sum(logprobs),
        token_ids=tuple(entry.token_id for entry in entries),
        logprobs=logprobs,
        is_greedy=all(entry.top[0][0] == entry.token_id for entry in entries) if asked else None,
    )
