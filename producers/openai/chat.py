"""Chat completions: requests as jobs, and results as answers and streams."""

from collections.abc import Mapping
from typing import Any

from ...schemas.errors import InvalidJob
from ...schemas.events import Chunk, JobResult
from .answers import Stream, usage_body
from .fields import TIER, WHO, Fields, generation_fields
from .logprobs import chat_logprobs
from .options import FIELDS as ANSWER_OPTIONS
from .prompts import AboutPrompt, prompt_logprobs, take_about_prompt
from .vllm import VLLM_NEUTRAL, VLLM_PASSED

FIELDS = Fields(
    passed=VLLM_PASSED
    | {
        *("messages", "model", "tools", "max_tokens", "temperature", "top_p", "seed", "stop", "metadata"),
        *("frequency_penalty", "presence_penalty", "logit_bias"),
    },
    read={
        **ANSWER_OPTIONS,
        **TIER,
        **WHO,
        "logprobs": "log-probabilities of the tokens",
        "max_completion_tokens": "`max_tokens`",
        "response_format": "JSON, or JSON of a schema, which the answer follows",
        "tool_choice": "only as `auto`, or as `none` without tools",
        "top_logprobs": "log-probabilities of this many of the most likely tokens",
    },
    neutral={
        **VLLM_NEUTRAL,
        "add_generation_prompt": (True,),
        "chat_template_kwargs": ({},),
        "continue_final_message": (False,),
        "documents": ([],),
        "echo": (False,),
        "function_call": ("none", "auto"),
        "functions": ([],),
        "modalities": (["text"],),
        "n": (1,),
        "parallel_tool_calls": (True, False),
        "reasoning_effort": ("medium",),
        "verbosity": ("medium",),
    },
    refused={
        "audio": "models here write only text",
        "moderation": "no model here moderates",
        "prediction": "leave it out: the answer is the same without it",
        "prompt": "send messages, or ask for a completion",
        "web_search_options": "models here don't search",
    },
)


def chat_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Job.make` for the body of a request.

    Raises:
        InvalidJob: naming a field that isn't supported.
    """
    fields = generation_fields(FIELDS, body)
    _take_tool_choice(fields)
    _take_limit(fields)
    _take_logprobs(fields)
    take_about_prompt(fields, body, echo=False)
    return fields


def _take_tool_choice(fields: dict[str, Any]) -> None:
    choice = fields.pop("tool_choice", "auto")
    if choice != "auto" and not (choice == "none" and "tools" not in fields):
        raise InvalidJob("tool_choice", "is supported only as auto, or as none without tools")


def _take_limit(fields: dict[str, Any]) -> None:
    if "max_completion_tokens" in fields:
        limit = fields.pop("max_completion_tokens")
        if fields.setdefault("max_tokens", limit) != limit:
            raise InvalidJob("max_tokens", "differs from max_completion_tokens; give one of them")


def _take_logprobs(fields: dict[str, Any]) -> None:
    wanted, most_likely = fields.pop("logprobs", False), fields.pop("top_logprobs", 0)
    if not isinstance(wanted, bool):
        raise InvalidJob("logprobs", "must be true or false; top_logprobs says how many")
    if wanted:
        fields["logprobs"] = most_likely
    elif most_likely != 0:
        raise InvalidJob("top_logprobs", "needs logprobs=true")


def chat_body(
    result: JobResult,
    model: str,
    created: int,
    *,
    return_token_ids: bool = False,
    prompt: AboutPrompt | None = None,
) -> dict[str, Any]:
    """The answer of a job that succeeded; `prompt` is what it says of its prompt, if it says anything."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": result.text, "refusal": None},
        "finish_reason": result.finish_reason,
        "logprobs": None if result.logprobs is None else chat_logprobs(result.logprobs),
    }
    if return_token_ids:
        choice["token_ids"] = list(result.token_ids)
    return {
        "id": f"chatcmpl-{result.job_id}",
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [choice],
        "usage": usage_body(result.usage),
        "system_fingerprint": result.fingerprint,
        **prompt_logprobs(result, None if prompt is None else prompt.prompt_logprobs),
    }


class ChatStream(Stream):
    """The events of a streamed chat completion."""

    _OBJECT = "chat.completion.chunk"

    def __init__(
        self,
        job_id: str,
        model: str,
        created: int,
        include_usage: bool = False,
        return_token_ids: bool = False,
    ) -> None:
        super().__init__(f"chatcmpl-{job_id}", model, created, include_usage, return_token_ids)

    def start(self) -> list[dict[str, Any]]:
        """The event that says who speaks."""
        return [self._event(_choice({"role": "assistant", "content": ""}))]

    def chunk(self, chunk: Chunk) -> list[dict[str, Any]]:
        """The event of a chunk; none if the chunk holds nothing that the client asked for."""
        if not (chunk.text or chunk.logprobs or (self._return_token_ids and chunk.token_ids)):
            return []
        choice = _choice({"content": chunk.text})
        if chunk.logprobs is not None:
            choice["logprobs"] = chat_logprobs(chunk.logprobs)
        if self._return_token_ids:
            choice["token_ids"] = list(chunk.token_ids)
        return [self._event(choice)]

    def _finish(self, result: JobResult) -> dict[str, Any]:
        return self._event(_choice({}) | {"finish_reason": result.finish_reason})


def _choice(delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
