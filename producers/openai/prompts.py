"""What an answer says of its prompt: `echo` repeats it, `prompt_logprobs` says how likely it was."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...schemas.errors import InvalidJob
from ...schemas.events import JobResult, PromptLogprob
from ...schemas.job import MAX_LOGPROBS
from .options import flag


@dataclass(frozen=True, slots=True)
class AboutPrompt:
    """What one choice says of its prompt.

    Attributes:
        echo: whether its text begins with the prompt's.
        text: the prompt as it was sent; None if it was sent as token ids, which are then spelt out.
        logprobs: how many of the most likely tokens `logprobs` lists; None if it isn't asked for.
        prompt_logprobs: the same for the field of that name.
    """

    echo: bool = False
    text: str | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    def echoed(self, result: JobResult) -> str:
        """The text that comes before the answer's."""
        if not self.echo or self.text is not None:
            return self.text or "" if self.echo else ""
        return b"".join(entry.bytes for entry in result.prompt_logprobs or ()).decode(errors="replace")

    def scored(self, result: JobResult) -> tuple[PromptLogprob, ...]:
        """The tokens that come before the answer's in `logprobs`."""
        if not self.echo or self.logprobs is None:
            return ()
        return tuple(_cut(entry, self.logprobs) for entry in result.prompt_logprobs or ())


def about_prompt(body: Mapping[str, Any], text: str | None) -> AboutPrompt:
    """What the body of a request that became a job asks about a prompt."""
    if body.get("truncate_prompt_tokens") is not None:  # which tokens are left is known by the worker
        text = None
    return AboutPrompt(flag(body, "echo"), text, body.get("logprobs"), _asked(body))


def take_about_prompt(fields: dict[str, Any], body: Mapping[str, Any], *, echo: bool) -> None:
    """Turn what a request asks about its prompt into a job's `prompt_logprobs`.

    Args:
        fields: the arguments of a job, with its prompt.
        body: the request.
        echo: whether the prompt is repeated.

    Raises:
        InvalidJob: a field has no meaning here.
    """
    fields.pop("prompt_logprobs", None)
    asked, logprobs = _asked(body), fields.get("logprobs") if echo else None
    unread = "prompt_token_ids" in fields or "truncate_prompt_tokens" in fields
    spells = echo and (unread or fields.get("max_tokens") == 0)
    if flag(body, "stream"):
        if asked is not None:
            raise InvalidJob("prompt_logprobs", "is not supported with stream=true; leave one of them out")
        if logprobs is not None or spells:
            raise InvalidJob(
                "echo", "is streamed only for a text without logprobs; leave out stream, or echo"
            )
    if isinstance(logprobs, int):  # beyond its bounds it is refused under its own name
        logprobs = min(max(logprobs, 0), MAX_LOGPROBS)
    if asked is not None and not isinstance(asked, int):
        fields["prompt_logprobs"] = asked  # for the job to refuse
    elif wanted := [each for each in (asked, logprobs, 0 if spells else None) if isinstance(each, int)]:
        fields["prompt_logprobs"] = max(wanted)


def _asked(body: Mapping[str, Any]) -> Any:
    """`prompt_logprobs`; None if it is false, as clients say too."""
    asked = body.get("prompt_logprobs")
    if asked is True:
        raise InvalidJob("prompt_logprobs", "must be a number: how many of the most likely tokens to list")
    return None if asked is False else asked


def prompt_logprobs(result: JobResult, asked: int | None) -> dict[str, Any]:
    """VLLM's `prompt_logprobs`, if asked for: by ids the tokens at each place, and null at the first."""
    if asked is None:
        return {}
    return {"prompt_logprobs": [_by_id(_cut(entry, asked)) for entry in result.prompt_logprobs or ()]}


def _by_id(entry: PromptLogprob) -> dict[str, Any] | None:
    if entry.logprob is None:
        return None
    own = {"logprob": entry.logprob, "rank": None, "decoded_token": entry.token}
    return {str(entry.token_id): own} | {
        str(token_id): {"logprob": logprob, "rank": rank, "decoded_token": token}
        for rank, (token_id, token, logprob) in enumerate(entry.top, 1)
    }


def _cut(entry: PromptLogprob, most: int) -> PromptLogprob:
    if len(entry.top) <= most:
        return entry
    return entry.model_copy(update={"top": entry.top[:most], "top_hex": entry.top_hex[:most]})
