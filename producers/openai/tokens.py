"""vLLM's `/tokenize` and `/detokenize`: requests as jobs of the tokenizer, and results as answers."""

from collections.abc import Mapping
from typing import Any

from ...schemas.errors import InvalidJob
from ...schemas.events import JobResult
from ...schemas.redaction import shown_name
from ...schemas.wire import TokenizerTask
from ...schemas.wording import did_you_mean
from .fields import Fields
from .options import flag

_UNSUPPORTED = {
    "chat_template": "leave it out: the model's own is used",
    "chat_template_kwargs": "leave it out: the model's own template is used without them",
    "mm_processor_kwargs": "leave it out: models here read only text",
}

TOKENIZE = Fields(
    passed=frozenset({"model", "prompt", "messages", "tools"}),
    read={
        "add_generation_prompt": "end messages with the beginning of the assistant's turn; `true` by default",
        "add_special_tokens": "those that the tokenizer adds; by default `true` for a prompt",
        "return_token_strs": "add `token_strs`, the tokens' names in the vocabulary",
    },
    neutral={"continue_final_message": (False,)},
    refused=_UNSUPPORTED,
    hints=(),
)

DETOKENIZE = Fields(
    passed=frozenset({"model"}),
    read={"tokens": "token ids"},
    neutral={},
    refused={},
    hints=(),
)


def tokenize_fields(body: Mapping[str, Any]) -> tuple[dict[str, Any], TokenizerTask]:
    """The arguments of `Job.make` for a request for a text's tokens, and what is asked of the tokenizer.

    Raises:
        InvalidJob: naming a field that is wrong or not supported.
    """
    fields = _asked(TOKENIZE, body)
    task = TokenizerTask(
        kind="tokenize",
        add_special_tokens=flag(body, "add_special_tokens", default="messages" not in fields),
        add_generation_prompt=flag(body, "add_generation_prompt", default=True),
        token_strs=flag(body, "return_token_strs"),
    )
    return {name: fields[name] for name in TOKENIZE.passed & fields.keys()}, task


def detokenize_fields(body: Mapping[str, Any]) -> tuple[dict[str, Any], TokenizerTask]:
    """The same for a request for the text of tokens.

    Raises:
        InvalidJob: naming a field that is wrong or not supported.
    """
    fields = _asked(DETOKENIZE, body)
    if not isinstance(tokens := fields.pop("tokens", None), list) or not tokens:
        raise InvalidJob("tokens", "must be a list of token ids that isn't empty")
    return fields | {"prompt_token_ids": tokens}, TokenizerTask(kind="detokenize")


def _asked(endpoint: Fields, body: Mapping[str, Any]) -> dict[str, Any]:
    for name in body:
        if name not in endpoint.known:
            raise InvalidJob(shown_name(name), f"is not known{did_you_mean(name, endpoint.known)}")
    return endpoint.asked(body)


def tokenize_body(result: JobResult, context_tokens: int | None) -> dict[str, Any]:
    """The answer to a request for a text's tokens."""
    return {
        "count": len(result.token_ids),
        "max_model_len": context_tokens,
        "tokens": list(result.token_ids),
        "token_strs": None if result.token_strs is None else list(result.token_strs),
    }


def detokenize_body(result: JobResult) -> dict[str, Any]:
    """The answer to a request for the text of tokens."""
    return {"prompt": result.text}
