"""Chat completions: requests as jobs, and results as answers and streams."""

from collections.abc import Mapping
from typing import Any

from ...schemas.answers import Arguments, CallBegin, Content, Delta, Reasoning
from ...schemas.errors import InvalidJob
from ...schemas.events import Chunk, JobResult
from ..answer_reader import AnswerReader
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
        *("tool_choice", "parallel_tool_calls", "reasoning_effort", "n"),
    },
    read={
        **ANSWER_OPTIONS,
        **TIER,
        **WHO,
        "logprobs": "log-probabilities of the tokens",
        "max_completion_tokens": "`max_tokens`",
        "response_format": "JSON, or JSON of a schema, which the answer follows",
        "top_logprobs": "log-probabilities of this many of the most likely tokens",
    },
    neutral={
        **VLLM_NEUTRAL,
        "add_generation_prompt": (True,),
        "continue_final_message": (False,),
        "documents": ([],),
        "echo": (False,),
        "function_call": ("none", "auto"),
        "functions": ([],),
        "modalities": (["text"],),
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
    _take_limit(fields)
    _take_logprobs(fields)
    take_about_prompt(fields, body, echo=False)
    return fields


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


def message_of(result: JobResult) -> dict[str, Any]:
    """The message that a result is."""
    if result.format is None:
        return {"role": "assistant", "content": result.text, "refusal": None}
    message: dict[str, Any] = {"role": "assistant", "content": result.content, "refusal": None}
    if result.tool_calls:
        message["tool_calls"] = [call.model_dump() for call in result.tool_calls]
    if result.reasoning is not None:
        message |= _reasoning(result.reasoning)
    return message


def _reasoning(text: str) -> dict[str, Any]:
    """Reasoning under the name that vLLM gives it, and under its earlier one, which most clients know."""
    return {"reasoning": text, "reasoning_content": text}


def chat_body(
    result: JobResult,
    model: str,
    created: int,
    *,
    return_token_ids: bool = False,
    prompt: AboutPrompt | None = None,
) -> dict[str, Any]:
    """The answer of a job that succeeded; `prompt` is what it says of its prompt, if it says anything."""
    return {
        "id": f"chatcmpl-{result.job_id}",
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [_whole(index, answer, return_token_ids) for index, answer in enumerate(result.answers())],
        "usage": usage_body(result.usage),
        "system_fingerprint": result.fingerprint,
        **prompt_logprobs(result, None if prompt is None else prompt.prompt_logprobs),
    }


def _whole(index: int, answer: JobResult, return_token_ids: bool) -> dict[str, Any]:
    choice = {
        "index": index,
        "message": message_of(answer),
        "finish_reason": answer.finish_reason,
        "logprobs": None if answer.logprobs is None else chat_logprobs(answer.logprobs),
    }
    if return_token_ids:
        choice["token_ids"] = list(answer.token_ids)
    return choice


class ChatStream(Stream):
    """The events of a streamed chat completion of `n` choices."""

    _OBJECT = "chat.completion.chunk"

    def __init__(
        self,
        job_id: str,
        model: str,
        created: int,
        include_usage: bool = False,
        return_token_ids: bool = False,
        n: int = 1,
    ) -> None:
        super().__init__(f"chatcmpl-{job_id}", model, created, include_usage, return_token_ids, n)
        self._answer = AnswerReader(job_id)

    def start(self) -> list[dict[str, Any]]:
        """The event of each choice that says who speaks."""
        return [self._event(_choice(index, {"role": "assistant", "content": ""})) for index in range(self._n)]

    def chunk(self, chunk: Chunk) -> list[dict[str, Any]]:
        """The events of a chunk; none if the chunk holds nothing that the client asked for."""
        index = chunk.choice
        choices = [_choice(index, self._delta(delta, index)) for delta in self._answer.read(chunk)]
        if not choices and (chunk.logprobs or (self._return_token_ids and chunk.token_ids)):
            choices = [_choice(index, {"content": ""})]
        if choices and chunk.logprobs is not None:
            choices[-1]["logprobs"] = chat_logprobs(chunk.logprobs)
        if choices and self._return_token_ids:
            choices[-1]["token_ids"] = list(chunk.token_ids)
        if (reason := self._answer.finish_reason(chunk)) is not None:
            choices.append(_choice(index, {}) | {"finish_reason": reason})
        return [self._event(choice) for choice in choices]

    def end(self, result: JobResult) -> list[dict[str, Any]]:
        """The events after the last token of a job that succeeded."""
        rest = [self._event(_choice(0, self._delta(delta, 0))) for delta in self._answer.end()]
        return rest + super().end(result)

    def _delta(self, delta: Delta, choice: int) -> dict[str, Any]:
        match delta:
            case Content(text):
                return {"content": text}
            case Reasoning(text):
                return _reasoning(text)
            case CallBegin(index, name):
                function: dict[str, Any] = {"name": name, "arguments": ""}
                head = {"index": index, "id": self._answer.call_id(index, choice), "type": "function"}
                return {"tool_calls": [{**head, "function": function}]}
            case Arguments(index, text):
                return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}

    def _finish(self, result: JobResult) -> dict[str, Any]:
        return self._event(_choice(0, {}) | {"finish_reason": result.finish_reason})


def _choice(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
