"""OpenAI's request and response bodies in terms of jobs and results."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from ..schemas.errors import InvalidJob
from ..schemas.events import JobResult, TokenLogprob

CHAT_URL = "/v1/chat/completions"
COMPLETIONS_URL = "/v1/completions"

_IGNORED = ("stream", "stream_options", "store", "service_tier")
"""They say how an HTTP server answers; a job knows nothing of it."""


def job_fields(url: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Job.make` for a request body; names without a counterpart are left for it to refuse.

    Raises:
        InvalidJob: the endpoint or an option of it does not exist here.
    """
    if url not in {CHAT_URL, COMPLETIONS_URL}:
        raise InvalidJob("url", f"must be {CHAT_URL} or {COMPLETIONS_URL} (got {url!r})")
    fields = {name: value for name, value in body.items() if value is not None and name not in _IGNORED}
    if "user" in fields:
        fields["metadata"] = _with_user(fields.pop("user"), fields.get("metadata", {}))
    if isinstance(kind := fields.get("response_format"), Mapping):
        fields["response_format"] = kind.get("type")
    return _chat_fields(fields) if url == CHAT_URL else _completion_fields(fields)


def _with_user(user: object, metadata: object) -> object:
    if not isinstance(user, str | int):
        raise InvalidJob("user", "must be a text")
    return {"user": str(user), **metadata} if isinstance(metadata, Mapping) else metadata


def _chat_fields(fields: dict[str, Any]) -> dict[str, Any]:
    if "max_completion_tokens" in fields:
        fields["max_tokens"] = fields.pop("max_completion_tokens")
    most_likely = fields.pop("top_logprobs", 0)
    if fields.pop("logprobs", False):
        fields["logprobs"] = most_likely
    return fields


def _completion_fields(fields: dict[str, Any]) -> dict[str, Any]:
    prompt = fields.get("prompt")
    if isinstance(prompt, list):
        if not all(isinstance(token, int) for token in prompt):
            raise InvalidJob("prompt", "must be one string, or one list of token ids; send one request each")
        fields["prompt_token_ids"] = fields.pop("prompt")
    return fields


def response_body(url: str, model: str, result: JobResult) -> dict[str, Any]:
    """The response to a request whose job ended so."""
    chat = url == CHAT_URL
    choice: dict[str, Any] = {"index": 0, "finish_reason": result.finish_reason, "logprobs": None}
    if chat:
        choice["message"] = {"role": "assistant", "content": result.text}
    else:
        choice["text"] = result.text
    if result.logprobs is not None:
        written: Callable[[tuple[TokenLogprob, ...]], object] = _chat_logprobs if chat else _logprobs
        choice["logprobs"] = written(result.logprobs)
    usage = result.usage
    return {
        "id": result.job_id,
        "object": "chat.completion" if chat else "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        },
    }


def _chat_logprobs(tokens: tuple[TokenLogprob, ...]) -> dict[str, Any]:
    def entry(token: str, logprob: float) -> dict[str, Any]:
        return {"token": token, "logprob": logprob, "bytes": list(token.encode())}

    return {
        "content": [
            entry(token.token, token.logprob)
            | {"top_logprobs": [entry(text, logprob) for _, text, logprob in token.top]}
            for token in tokens
        ]
    }


def _logprobs(tokens: tuple[TokenLogprob, ...]) -> dict[str, Any]:
    offsets, at = [], 0
    for token in tokens:
        offsets.append(at)
        at += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{text: logprob for _, text, logprob in token.top} for token in tokens],
        "text_offset": offsets,
    }
