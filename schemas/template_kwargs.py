"""Variables that a request gives its model's chat template."""

import json
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from .plain_json import check_json
from .redaction import shown_name

MAX_VARIABLES, MAX_BYTES, MAX_DEPTH = 64, 16 * 1024, 8

RESERVED = frozenset(
    {
        *("messages", "conversation", "tools", "documents", "chat_template", "add_generation_prompt"),
        *("continue_final_message", "tokenize", "padding", "truncation", "max_length", "return_tensors"),
        *("return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs", "sanitize_control_tokens"),
    }
)
"""What rendering a template is told by other means, or not at all."""


def _checked(variables: dict[str, Any]) -> dict[str, Any]:
    for name in variables:
        if not name.isidentifier() or len(name) > 64:
            raise ValueError(f"has the name {shown_name(name)!r}; names are at most 64 letters, digits or _")
        if name in RESERVED:
            raise ValueError(f"can't set {name}, which is no variable of the model's; leave it out")
    level: list[Any] = [variables]
    for _ in range(MAX_DEPTH + 1):
        level = [inner for each in level for inner in _inside(each)]
    if level:
        raise ValueError(f"is nested deeper than {MAX_DEPTH} levels")
    check_json(variables)
    if len(json.dumps(variables, ensure_ascii=False).encode(errors="replace")) > MAX_BYTES:
        raise ValueError(f"is larger than {MAX_BYTES // 1024} KiB as JSON")
    return variables


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


TemplateKwargs = Annotated[dict[str, Any], Field(max_length=MAX_VARIABLES), AfterValidator(_checked)]
