"""Checks of bodies against the types of OpenAI's and Anthropic's own packages."""

from collections.abc import Iterable
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel, TypeAdapter


def conforms(kind: Any, body: object, extensions: Iterable[str] = ()) -> Any:
    """Read a body as its type, without conversions; it may have no field that the type hasn't.

    The clients' strict validation is laxer: it allows more fields and converts values.
    """
    value = TypeAdapter(kind).validate_python(body, strict=True)
    strange = set(_strangers(value)) - set(extensions)
    assert not strange, f"{kind} has no fields {sorted(strange)}"
    return value


def _strangers(value: object) -> Iterable[str]:
    if isinstance(value, BaseModel):
        yield from value.model_extra or ()
        for name in value.__class__.model_fields:
            yield from _strangers(getattr(value, name))
    elif isinstance(value, dict):
        for each in value.values():
            yield from _strangers(each)
    elif isinstance(value, list):
        for each in value:
            yield from _strangers(each)


def fields_of(request: Any) -> set[str]:
    """The names of the fields in a request's type, which is a TypedDict or a union of some."""
    parts = get_args(request) if get_origin(request) is not None else (request,)
    return {name for part in parts for name in get_type_hints(part)}
