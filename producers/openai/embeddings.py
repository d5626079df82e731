"""Embeddings: requests as jobs, and results as answers."""

from collections.abc import Mapping
from typing import Any, Literal

from ...schemas.embed import MAX_DIMENSIONS, to_base64
from ...schemas.errors import InvalidJob
from ...schemas.events import JobResult
from ...schemas.job import Job
from .fields import TIER, WHO, Fields, drop, take_tier, take_who_asks
from .options import flag

MAX_INPUTS = 2048
"""Maximum number of inputs in one request, each of which becomes a job; it is OpenAI's."""

_HOW = ("pooling", "normalize", "dimensions")

_QUEUE = {
    *("job_class", "idempotency_key", "delay_s", "deadline_s", "max_runtime_s", "max_attempts", "webhook"),
    "tenant",
}
"""Arguments of a job that say nothing of what is computed."""

FIELDS = Fields(
    passed=frozenset({"model", "metadata"}),
    read={
        "input": f"a text, token ids, or a list of up to {MAX_INPUTS:,} of either",
        "encoding_format": "`float` or `base64`",
        "dimensions": "the job's `embed`: keep only this many of the first numbers",
        "pooling": "the job's `embed`: `last` or `mean`; by default what the model is made for",
        "normalize": "the job's `embed`: scale to length 1; `true` by default",
        **TIER,
        **WHO,
    },
    neutral={"add_special_tokens": (True,), "priority": (0,)},
    refused={
        "messages": "send the text as `input`",
        "prompt": "send the text as `input`",
        "truncate_prompt_tokens": "shorten the input",
        "input_type": "write the model's instruction into the input",
    },
)


def embedding_jobs(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The arguments of `Job.make` for each input of a request.

    Raises:
        InvalidJob: naming a field that is wrong or not supported.
    """
    for name in body:
        if name in Job.model_fields and name not in FIELDS.known | _QUEUE:
            raise InvalidJob(name, "has no meaning for an embedding; leave it out")
    fields = FIELDS.asked(body)
    encoding_of(body)
    take_who_asks(fields)
    take_tier(fields)
    inputs = _inputs(fields.pop("input", None))
    embed = _how({name: fields.pop(name) for name in _HOW if name in fields})
    drop(fields, ("encoding_format",))
    return [{**fields, **given, "embed": embed, "stream": False} for given in inputs]


def embedding_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Job.make` for the body of a request with one input.

    Raises:
        InvalidJob: naming a field that isn't supported; there are several inputs.
    """
    jobs = embedding_jobs(body)
    if len(jobs) > 1:
        raise InvalidJob("input", "must be one text, or one list of token ids; a batch has a line for each")
    return jobs[0]


def encoding_of(body: Mapping[str, Any]) -> Literal["float", "base64"]:
    """The form in which the vectors are wanted.

    Raises:
        InvalidJob: there is no such form.
    """
    match body.get("encoding_format"):
        case None | "float":
            return "float"
        case "base64":
            return "base64"
    raise InvalidJob("encoding_format", "must be float or base64")


def embedding_body(
    results: list[JobResult], model: str, encoding: Literal["float", "base64"]
) -> dict[str, Any]:
    """The answer of jobs that succeeded, one for each input."""
    tokens = sum(result.usage.prompt_tokens for result in results)
    vectors = [result.embedding or () for result in results]
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": to_base64(vector) if encoding == "base64" else list(vector),
            }
            for index, vector in enumerate(vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _inputs(given: object) -> list[dict[str, Any]]:
    if isinstance(given, str):
        return [{"prompt": _not_empty(given)}]
    if not isinstance(given, list) or not given:
        raise InvalidJob("input", "must be a text, token ids, or a list of either")
    if all(map(_is_token, given)):
        return [{"prompt_token_ids": given}]
    if len(given) > MAX_INPUTS:
        raise InvalidJob("input", f"has {len(given):,} inputs; at most {MAX_INPUTS:,} fit one request")
    if all(isinstance(each, str) for each in given):
        return [{"prompt": _not_empty(each)} for each in given]
    if all(isinstance(each, list) and each and all(map(_is_token, each)) for each in given):
        return [{"prompt_token_ids": each} for each in given]
    raise InvalidJob("input", "must be a text, token ids, or a list of either, none of them empty")


def _how(asked: dict[str, Any]) -> dict[str, Any]:
    """Check what would otherwise be refused under the job's own names."""
    dimensions = asked.get("dimensions", 1)
    if not _is_token(dimensions) or not 1 <= dimensions <= MAX_DIMENSIONS:
        raise InvalidJob("dimensions", f"must be a whole number from 1 to {MAX_DIMENSIONS}")
    if asked.get("pooling", "last") not in ("last", "mean"):
        raise InvalidJob("pooling", "must be last or mean")
    flag(asked, "normalize")
    return asked


def _not_empty(text: str) -> str:
    if not text:
        raise InvalidJob("input", "must not be an empty text")
    return text


def _is_token(part: object) -> bool:
    # True is an int in Python, but no token.
    return isinstance(part, int) and not isinstance(part, bool)
