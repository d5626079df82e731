"""Translates OpenAI's request and response bodies to and from jobs and results."""

import codecs
import time
from collections.abc import Mapping
from typing import Any

from ...schemas.errors import InvalidJob
from ...schemas.events import JobResult, TokenLogprob

CHAT_URL = "/v1/chat/completions"
COMPLETIONS_URL = "/v1/completions"

_IGNORED = ("stream", "stream_options", "store", "service_tier", "safety_identifier", "prompt_cache_key")
"""Options about how an HTTP server answers, which don't concern a job."""

_NEUTRAL: dict[str, tuple[object, ...]] = {
    "add_generation_prompt": (True,),
    "best_of": (1,),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "detokenize": (True,),
    "documents": ([],),
    "early_stopping": (False,),
    "echo": (False,),
    "functions": ([],),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "prompt_logprobs": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "stop": ([], ""),
    "suffix": ("",),
    "tool_choice": ("auto",),
    "tools": ([],),
    "top_k": (-1,),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
}
"""Options of OpenAI's API and vLLM's, with the values at which they have no effect."""


def job_fields(url: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Job.make` for a request body; it refuses names without a counterpart.

    Raises:
        InvalidJob: the endpoint or one of its options isn't supported.
    """
    if url not in {CHAT_URL, COMPLETIONS_URL}:
        raise InvalidJob("url", f"must be {CHAT_URL} or {COMPLETIONS_URL} (got {url!r})")
    fields = {name: value for name, value in body.items() if not _asks_nothing(name, value)}
    if fields.get("tool_choice") == "none" and "tools" not in fields:
        del fields["tool_choice"]
    if "user" in fields:
        fields["metadata"] = _with_user(fields.pop("user"), fields.get("metadata", {}))
    if isinstance(kind := fields.get("response_format"), Mapping):
        fields["response_format"] = kind.get("type")
    return _chat_fields(fields) if url == CHAT_URL else _completion_fields(fields)


def _asks_nothing(name: str, value: object) -> bool:
    return value is None or name in _IGNORED or value in _NEUTRAL.get(name, ())


def _with_user(user: object, metadata: object) -> object:
    if not isinstance(user, str | int):
        raise InvalidJob("user", "must be a string")
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
    """The response to a request whose job ended with this result."""
    chat = url == CHAT_URL
    choice: dict[str, Any] = {"index": 0, "finish_reason": result.finish_reason, "logprobs": None}
    if chat:
        choice["message"] = {"role": "assistant", "content": result.text}
    else:
        choice["text"] = result.text
    if result.logprobs is not None:
        choice["logprobs"] = _chat_logprobs(result) if chat else _logprobs(result)
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


def _chat_logprobs(result: JobResult) -> dict[str, Any]:
    def entry(token: str, spelt: bytes, logprob: float) -> dict[str, Any]:
        return {"token": token, "logprob": logprob, "bytes": list(spelt)}

    return {
        "content": [
            entry(token.token, token.bytes, token.logprob)
            | {
                "top_logprobs": [
                    entry(text, spelt, logprob)
                    for (_, text, logprob), spelt in zip(token.top, token.top_bytes, strict=True)
                ]
            }
            for token in result.logprobs or ()
        ]
    }


def _logprobs(result: JobResult) -> dict[str, Any]:
    tokens = result.logprobs or ()
    names = [_name(token.token, token.bytes) for token in tokens]
    return {
        "tokens": names,
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [
            {
                _name(text, spelt): logprob
                for (_, text, logprob), spelt in zip(token.top, token.top_bytes, strict=True)
            }
            for token in tokens
        ],
        "text_offset": _offsets(tokens, result.text),
    }


def _name(token: str, spelt: bytes) -> str:
    """A token's text, or its bytes if it has no text of its own, since no two tokens may look alike."""
    return token if token.encode() == spelt else "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelt)


def _offsets(tokens: tuple[TokenLogprob, ...], text: str) -> list[int]:
    """The position in the text at which each token begins, or of the character that it is part of.

    A token that isn't in the text (a special one, or one that ended it) gets the position at which it came.
    """
    offsets, at = [], 0
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in tokens:
        offsets.append(at)
        piece = decoder.decode(token.bytes)
        for written in (piece, piece.removeprefix(" ")):  # the first word of a text may lose its space
            if text.startswith(written, at):
                at += len(written)
                break
    return offsets
