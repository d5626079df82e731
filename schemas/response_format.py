"""What a job may ask of its answer's form: JSON, JSON of a schema, or text of a regex, a choice or a grammar.

`response_format` is OpenAI's, `structured_outputs` is vLLM's. Both are checked here for their shape and size;
what their schemas and grammars mean is known by workers, which compile them.
"""

import json
import re
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, with_config
from typing_extensions import TypedDict

from .plain_json import check_json, check_text

MAX_GRAMMAR_BYTES = 128 * 1024
"""Bytes of a schema as JSON, of a regex or of a grammar, or of all choices together."""

MAX_CHOICES = 1024

_CLOSED = ConfigDict(extra="forbid", hide_input_in_errors=True)


def _within_bounds(value: Any) -> Any:
    size = len(json.dumps(check_json(value), ensure_ascii=False).encode())
    if size > MAX_GRAMMAR_BYTES:
        raise ValueError(f"has {size} bytes as JSON, more than {MAX_GRAMMAR_BYTES}")
    return value


def _schema(value: Any) -> Any:
    """A schema, which may also be given as its JSON text or as a pydantic model."""
    if isinstance(value, type) and issubclass(value, BaseModel):
        return value.model_json_schema()
    if isinstance(value, str):
        if len(value) > MAX_GRAMMAR_BYTES:
            raise ValueError(f"has {len(value)} characters, more than {MAX_GRAMMAR_BYTES}")
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("is a text, but not that of a JSON schema") from None
    return value


def _short_enough(text: str) -> str:
    check_text(text)
    if (size := len(text.encode())) > MAX_GRAMMAR_BYTES:
        raise ValueError(f"has {size} bytes, more than {MAX_GRAMMAR_BYTES}")
    return text


def _name(name: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) is None:
        raise ValueError("must be 1 to 64 letters, digits, _ or -")
    return name


Schema = Annotated[dict[str, Any], BeforeValidator(_schema), AfterValidator(_within_bounds)]
Grammar = Annotated[str, Field(min_length=1), AfterValidator(_short_enough)]
Choice = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    Field(min_length=1, max_length=MAX_CHOICES),
    AfterValidator(_within_bounds),
]


@with_config(_CLOSED)
class JsonSchema(TypedDict):
    """A schema and its name.

    Attributes:
        name: for people; letters, digits, `_` and `-`.
        schema: the JSON schema that the answer follows.
        strict: false lets keywords that can't be enforced go unheeded; otherwise such a job fails.
        description: for people.
    """

    name: Annotated[str, AfterValidator(_name)]
    schema: NotRequired[Schema]
    strict: NotRequired[bool | None]
    description: NotRequired[Annotated[str, Field(max_length=4096), AfterValidator(check_json)] | None]


@with_config(_CLOSED)
class ResponseFormat(TypedDict):
    """OpenAI's `response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NotRequired[JsonSchema | None]


@with_config(_CLOSED)
class StructuredOutputs(TypedDict):
    """vLLM's `structured_outputs`; exactly one is given.

    Attributes:
        json: a JSON schema that the answer follows.
        regex: a regular expression that matches the whole answer.
        choice: the answers to choose from.
        grammar: a grammar in Lark's syntax that derives the answer.
        json_object: true asks for any JSON object.
    """

    json: NotRequired[Schema | None]
    regex: NotRequired[Grammar | None]
    choice: NotRequired[Choice | None]
    grammar: NotRequired[Grammar | None]
    json_object: NotRequired[bool | None]


def _as_format(value: Any) -> Any:
    """A format in short: the name of a type, or a pydantic model."""
    if isinstance(value, str):
        return {"type": value}
    if isinstance(value, type) and issubclass(value, BaseModel):
        name = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in value.__name__)
        schema = {"name": name[:64], "schema": value.model_json_schema(), "strict": True}
        return {"type": "json_schema", "json_schema": schema}
    return value


def _complete_format(asked: ResponseFormat) -> ResponseFormat | None:
    given = asked.get("json_schema")
    if asked["type"] == "json_schema":
        if given is None:
            raise ValueError("json_schema is missing; it has the schema and its name")
        if "schema" not in given:
            raise ValueError(
                "json_schema.schema is missing; for any JSON object, ask for the type json_object"
            )
        return {"type": "json_schema", "json_schema": _without_nulls(given)}
    if given is not None:
        raise ValueError(f"json_schema needs the type json_schema, not {asked['type']}")
    # Text asks for nothing, so it costs nothing on the wire either.
    return None if asked["type"] == "text" else {"type": asked["type"]}


def _one_output(asked: StructuredOutputs) -> StructuredOutputs:
    given: StructuredOutputs = _without_nulls(asked)
    if given.get("json_object") is False:
        del given["json_object"]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        raise ValueError(f"give exactly one of {', '.join(StructuredOutputs.__annotations__)} (got {found})")
    return given


def _without_nulls(asked: Any) -> Any:
    return {name: value for name, value in asked.items() if value is not None}


OptionalResponseFormat = Annotated[
    Annotated[ResponseFormat, AfterValidator(_complete_format)] | None, BeforeValidator(_as_format)
]
"""A job's `response_format`; None for text."""

OptionalStructuredOutputs = Annotated[StructuredOutputs, AfterValidator(_one_output)] | None
"""A job's `structured_outputs`."""
