"""Instructor's modes that lean on the API: a tool that must be called, several calls, and a schema."""

from collections.abc import Iterable
from typing import Literal

import instructor
from openai import OpenAI
from pydantic import BaseModel, ConfigDict

MODEL = "tooled"


class Closed(BaseModel):
    """Has no other properties, so that the model makes none up."""

    model_config = ConfigDict(extra="forbid")


class Sum(Closed):
    """A sum of two numbers."""

    total: Literal[1, 2, 3]
    sure: bool


class Word(Closed):
    """A word."""

    word: Literal["alpha", "beta"]


ASKED = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "What is the sum?"}],
    "max_retries": 0,
    "temperature": 0.0,
    "seed": 1,
    "max_tokens": 700,
}


with OpenAI() as openai:
    for mode in (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON_SCHEMA):
        client = instructor.from_openai(openai, mode=mode)
        alone = {} if mode is instructor.Mode.JSON_SCHEMA else {"parallel_tool_calls": False}
        found = client.chat.completions.create(**ASKED, **alone, response_model=Sum)
        assert isinstance(found, Sum)
        *_, last = client.chat.completions.create_partial(**ASKED, **alone, response_model=Sum)
        assert last.model_dump() == found.model_dump(), (mode, last, found)
    parallel = instructor.from_openai(openai, mode=instructor.Mode.PARALLEL_TOOLS)
    sampled = {"temperature": 1.0, "max_tokens": 1000}  # so that it ends after some calls
    # In this mode instructor itself leaves it to the model whether to call.
    sampled["extra_body"] = {"tool_choice": "required"}
    several = [*parallel.chat.completions.create(**ASKED | sampled, response_model=Iterable[Sum | Word])]
    assert len(several) > 1
    assert all(isinstance(each, Sum | Word) for each in several)
