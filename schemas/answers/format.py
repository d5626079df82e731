"""In which format a model writes, as it is known to everybody who reads its text."""

from collections.abc import Mapping
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

ToolFormat = Literal[
    "hermes", "qwen3_coder", "llama3_json", "pythonic", "mistral", "harmony", "glm", "deepseek", "gemma"
]
ReasoningFormat = Literal["think", "mistral", "harmony"]

TOOL_FORMATS: tuple[str, ...] = get_args(ToolFormat)
REASONING_FORMATS: tuple[str, ...] = get_args(ReasoningFormat)

ValueKind = Literal["json", "nullable"]


def _known(names: tuple[str, ...]) -> BeforeValidator:
    return BeforeValidator(lambda name: name if name in names else None)


class AnswerFormat(BaseModel):
    """How to read a model's text. It is written with the first chunk of a job's stream and with its result.

    Attributes:
        tools: how calls of tools are written; None if none are expected.
        reasoning: how reasoning is marked; None if it isn't.
        begun: whether the prompt ends within the reasoning, so that the text begins with it.
        single: only one call is wanted; what looks like another one is text.
        values: how to read values that are written without quotes, by function and parameter: as JSON, or
            as text that may be null. All others are text.
    """

    # A name that only a newer worker knows is no format: its text is shown as it is.
    model_config = ConfigDict(extra="ignore", frozen=True)

    tools: Annotated[ToolFormat | None, _known(TOOL_FORMATS)] = None
    reasoning: Annotated[ReasoningFormat | None, _known(REASONING_FORMATS)] = None
    begun: bool = False
    single: bool = False
    values: Mapping[str, Mapping[str, ValueKind]] = Field(default_factory=dict)
