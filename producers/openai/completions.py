"""Completions: requests as jobs, and results as answers and streams."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...schemas.errors import InvalidJob
from ...schemas.events import Chunk, JobResult, PromptLogprob, TokenLogprob
from .answers import Stream, usage_body
from .fields import TIER, WHO, Fields, generation_fields
from .logprobs import LegacyLogprobs
from .options import FIELDS as ANSWER_OPTIONS
from .options import flag
from .prompts import AboutPrompt, about_prompt, prompt_logprobs, take_about_prompt
from .vllm import VLLM_NEUTRAL, VLLM_PASSED

MAX_PROMPTS = 128
"""Maximum number of prompts in one request, each of which becomes a job."""

FIELDS = Fields(
    passed=VLLM_PASSED
    | {
        *("prompt", "model", "max_tokens", "temperature", "top_p", "seed", "stop", "logprobs", "metadata"),
        *("frequency_penalty", "presence_penalty", "logit_bias", "n"),
    },
    read={
        **ANSWER_OPTIONS,
        **TIER,
        **WHO,
        "echo": "repeat the prompt before the answer; with `logprobs`, those of its tokens too",
        "response_format": "JSON, or JSON of a schema, which the answer follows",
    },
    neutral={**VLLM_NEUTRAL, "add_special_tokens": (True,), "suffix": ("",)},
    refused={"messages": "send a prompt, or ask for a chat completion"},
)


def completion_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Job.make` for the body of a request with one prompt.

    Raises:
        InvalidJob: naming a field that isn't supported; there are several prompts.
    """
    jobs = completion_jobs(body)
    if len(jobs) > 1:
        raise InvalidJob("prompt", "must be one string, or one list of token ids; send one request each")
    return jobs[0]


def completion_jobs(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The arguments of `Job.make` for each prompt of a request; its choices are in the same order.

    Raises:
        InvalidJob: naming a field that isn't supported.
    """
    fields = generation_fields(FIELDS, body)
    if isinstance(fields.get("logprobs"), bool):
        raise InvalidJob("logprobs", "must be a number: how many of the most likely tokens to list")
    echo = flag(fields, "echo")
    fields.pop("echo", None)
    prompt = fields.pop("prompt", None)
    jobs = [fields] if prompt is None else [fields | one for one in _prompts(prompt)]
    for job in jobs:
        take_about_prompt(job, body, echo=echo)
    return jobs


def about_prompts(body: Mapping[str, Any]) -> list[AboutPrompt]:
    """What the answer to a request, which became these jobs, says of each prompt."""
    prompt = body.get("prompt")
    prompts = [{}] if prompt is None else _prompts(prompt)
    return [about_prompt(body, one.get("prompt")) for one in prompts]


def _prompts(prompt: object) -> list[dict[str, Any]]:
    if isinstance(prompt, str):
        return [{"prompt": prompt}]
    if not isinstance(prompt, list) or not prompt:
        raise InvalidJob("prompt", "must be a string, a list of token ids, or a list of either")
    if _are_tokens(prompt):
        return [{"prompt_token_ids": prompt}]
    if len(prompt) > MAX_PROMPTS:
        raise InvalidJob(
            "prompt", f"has {len(prompt)} prompts; at most {MAX_PROMPTS} are allowed in a request"
        )
    if all(isinstance(part, str) for part in prompt):
        return [{"prompt": part} for part in prompt]
    if all(isinstance(part, list) and _are_tokens(part) for part in prompt):
        return [{"prompt_token_ids": part} for part in prompt]
    raise InvalidJob("prompt", "must be a string, a list of token ids, or a list of either")


def _are_tokens(parts: list[object]) -> bool:
    # By their types, of which True's isn't int: there may be a million. An empty list is refused later.
    return set(map(type, parts)) <= {int}


def completion_body(
    *results: JobResult,
    model: str,
    created: int,
    return_token_ids: bool = False,
    prompts: Sequence[AboutPrompt] = (),
) -> dict[str, Any]:
    """The answer of jobs that succeeded, one for each prompt of the request; the first gives it its id.

    `prompts` is what the choices say of their prompts, if they say anything.
    """
    counts = [usage_body(result.usage) for result in results]
    usage = {name: sum(count[name] for count in counts) for name in counts[0] if name.endswith("_tokens")}
    cached = sum(result.usage.cached_tokens for result in results)
    return {
        "id": f"cmpl-{results[0].job_id}",
        "object": "text_completion",
        "created": created,
        "model": model,
        "choices": [
            _whole(index, answer, return_token_ids, prompt)
            for index, (answer, prompt) in enumerate(_answers(results, prompts))
        ],
        "usage": usage | {"prompt_tokens_details": {"cached_tokens": cached}},
        "system_fingerprint": results[0].fingerprint,
    }


def _answers(
    results: Sequence[JobResult], prompts: Sequence[AboutPrompt]
) -> Iterator[tuple[JobResult, AboutPrompt]]:
    """All choices in order: those to the first prompt, those to the second, and so on."""
    for place, result in enumerate(results):
        for answer in result.answers():
            yield answer, prompts[place] if prompts else AboutPrompt()


def _whole(index: int, result: JobResult, return_token_ids: bool, prompt: AboutPrompt) -> dict[str, Any]:
    text = prompt.echoed(result) + result.text
    choice = _choice(index, text) | {"finish_reason": result.finish_reason}
    if result.logprobs is not None:
        tokens: list[TokenLogprob | PromptLogprob] = [*prompt.scored(result), *result.logprobs]
        choice["logprobs"] = LegacyLogprobs(whole=True).shape(tokens, text)
    choice |= prompt_logprobs(result, prompt.prompt_logprobs)
    if return_token_ids:
        choice["token_ids"] = list(result.token_ids)
    return choice


class CompletionStream(Stream):
    """The events of a streamed completion, or of those of its choices that are answers to one prompt.

    Args:
        answer_id: the job that gives the whole answer its id, if it isn't this prompt's own.
        index: the place of the first of these choices in the answer.
        prompt: what they say of their prompt.
    """

    _OBJECT = "text_completion"

    def __init__(
        self,
        job_id: str,
        model: str,
        created: int,
        include_usage: bool = False,
        return_token_ids: bool = False,
        *,
        index: int = 0,
        prompt: AboutPrompt | None = None,
        n: int = 1,
    ) -> None:
        super().__init__(f"cmpl-{job_id}", model, created, include_usage, return_token_ids, n)
        self._index = index
        self._echo = prompt.text if prompt is not None and prompt.echo else None
        self._logprobs = [LegacyLogprobs(whole=False) for _ in range(n)]

    def start(self) -> list[dict[str, Any]]:
        """The event of each choice that repeats the prompt, if that is asked for."""
        echoing = range(self._index, self._index + self._n) if self._echo else ()
        return [self._event(_choice(index, self._echo or "")) for index in echoing]

    def chunk(self, chunk: Chunk) -> list[dict[str, Any]]:
        """The event of a chunk; none if the chunk holds nothing that the client asked for."""
        shows = chunk.text or chunk.logprobs or (self._return_token_ids and chunk.token_ids)
        if not shows and chunk.finish_reason is None:
            return []
        choice = _choice(self._index + chunk.choice, chunk.text) | {"finish_reason": chunk.finish_reason}
        if chunk.logprobs is not None:
            choice["logprobs"] = self._logprobs[chunk.choice].shape(chunk.logprobs, chunk.text)
        if self._return_token_ids:
            choice["token_ids"] = list(chunk.token_ids)
        return [self._event(choice)]

    def _finish(self, result: JobResult) -> dict[str, Any]:
        return self._event(_choice(self._index, "") | {"finish_reason": result.finish_reason})


def _choice(index: int, text: str) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": None}
