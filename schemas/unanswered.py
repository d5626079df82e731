"""Jobs that aren't answered: what they want of a prompt instead, and what they may say of it."""

from collections.abc import Mapping
from typing import Any

from pydantic.fields import FieldInfo

_USUAL: dict[str, dict[str, int]] = {
    "embed": {"max_tokens": 1},
    "document": {"max_tokens": 1},
    "continuation": {"max_tokens": 0, "prompt_logprobs": 0},
}
"""The fields that ask for something else than an answer, with what others then are if they aren't given. Such
a job costs its prompt and no more, so that is all that is reserved."""

WANTS = tuple(_USUAL)

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
    """A job's fields, completed if it asks for something else than an answer."""
    if isinstance(fields, Mapping):
        for want, usual in _USUAL.items():
            if fields.get(want) not in (None, False):
                return {**usual, **fields}
    return fields


def refuse_output(job: object, arguments: Mapping[str, FieldInfo]) -> None:
    """Refuse a job that asks for something else than an answer, and says something of what is generated.

    Args:
        job: the job.
        arguments: the fields of every job.

    Raises:
        ValueError: naming the argument.
    """
    wanted = [want for want in WANTS if getattr(job, want) is not None]
    if not wanted:
        return
    if len(wanted) > 1:
        raise ValueError(f"give only one of {' and '.join(wanted)}: a job has one result")
    usual = _USUAL[wanted[0]]
    known = _OF_A_PROMPT | _OF_ANY_JOB | {*wanted}
    if wanted[0] == "continuation":
        known |= {"prompt_logprobs"}
    for name, argument in arguments.items():
        default = usual.get(name, argument.get_default(call_default_factory=True))
        if name not in known and getattr(job, name) != default:
            raise ValueError(
                f"{name} has no meaning beside {wanted[0]}, which generates nothing; leave it out"
            )
