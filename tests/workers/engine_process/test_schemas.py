"""Many schemas: what is sampled at temperature 1 parses and follows each, with the built-in model and with a
trained one."""

import json
import os
import random
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from headrace.engine import Engine, EngineConfig, FinishReason, Request, SamplingParams
from headrace.schemas.wire import WireJob
from headrace.workers.engine_process.text import Grammars, Tokenizer, grammar_of
from headrace.workers.models import resolve_model

from ...support.smollm2 import folder_or_skip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

AT_ONCE, MOST_TOKENS, DEEPEST = 16, 400, 6

TRAINED = int(os.environ.get("TRAINED_SCHEMAS", "60"))
"""Schemas that the trained model answers; `TRAINED_SCHEMAS=300` takes minutes."""

LEAVES: tuple[dict[str, Any], ...] = (
    {"type": "integer", "minimum": -3, "exclusiveMaximum": 12},
    {"type": "number", "multipleOf": 0.25, "minimum": 0, "maximum": 2},
    {"type": "string", "pattern": "^[A-Z]{2}[0-9]+$", "maxLength": 6},
    {"type": "string", "minLength": 2, "maxLength": 5},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "uuid"},
    {"enum": ["é", "日本", '"', None, 4.5, {"a": []}]},
    {"const": [1, {"b": "\n"}]},
    {"type": ["boolean", "null"]},
)


def schema(rng: random.Random, depth: int) -> dict[str, Any]:
    """A random schema of at most this depth."""
    kind = rng.choice(("object", "object", "array", "anyOf", "allOf")) if depth > 1 else "leaf"
    match kind:
        case "object":
            names = rng.sample(["a", "b", "ü", "a b", "c\\d", "$ref"], rng.randint(1, 3))
            properties = {name: schema(rng, depth - 1) for name in names}
            required = [name for name in names if rng.random() < 0.7]
            more: Any = False if rng.random() < 0.7 else {"type": "boolean"}
            return {
                "type": "object",
                "properties": properties,
                "required": required,
                "additionalProperties": more,
            }
        case "array":
            least = rng.randint(0, 2)
            items = {
                "items": schema(rng, depth - 1),
                "minItems": least,
                "maxItems": least + rng.randint(0, 2),
            }
            return {"type": "array", **items}
        case "anyOf":
            return {"anyOf": [schema(rng, depth - 1), rng.choice(LEAVES)]}
        case "allOf":
            least = {"type": "string", "minLength": rng.randint(0, 3)}
            return {"allOf": [least, {"type": "string", "maxLength": rng.randint(3, 6)}]}
        case _:
            return dict(rng.choice(LEAVES))


def grammar(of: dict[str, Any]) -> str:
    made = grammar_of(WireJob.make(model="demo", prompt="x", structured_outputs={"json": of}))
    assert made is not None
    return made


def answers(
    model: str, prompt: str, schemas: list[dict[str, Any]], most_tokens: int = MOST_TOKENS
) -> Iterator[tuple[dict[str, Any], str]]:
    """Each schema with what is sampled under it, if that ends by itself."""
    tokenizer = Tokenizer(model)
    engine = Engine(EngineConfig(model=model, device="cpu", max_batch_size=AT_ONCE, num_pages=600))
    grammars = Grammars(tokenizer, engine.model_info.vocab_size, engine.model_info.eos_token_ids)
    tokens: list[list[int]] = [[] for _ in schemas]
    for place, each in enumerate(schemas):
        params = SamplingParams(max_tokens=most_tokens, temperature=1.0, seed=place)
        follower = grammars.follow(grammar(each))
        engine.submit(Request(f"{place}", tokenizer.encode(prompt), params, constraint=follower))
    while engine.has_work:
        for progress in engine.step():
            place = int(progress.id)
            assert not progress.error, (progress.error, schemas[place])
            tokens[place] += progress.token_ids
            if progress.finish_reason is FinishReason.STOP:
                yield schemas[place], tokenizer.spelt_out(tokens[place][:-1])


@pytest.mark.parametrize(("model", "count"), [("demo", 300), ("smollm2", TRAINED)])
def test_every_answer_that_ends_follows_its_schema(model: str, count: int):
    folder = resolve_model("demo") if model == "demo" else str(folder_or_skip())
    rng, ended = random.Random(7), 0
    schemas = [schema(rng, 1 + number % DEEPEST) for number in range(count)]
    for asked, text in answers(folder, "The JSON is:\n", schemas):
        checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
        jsonschema.validate(json.loads(text), asked, jsonschema.Draft202012Validator, format_checker=checker)
        ended += 1
    print(f"{model}: {ended} of {count} answers ended, the others were cut at {MOST_TOKENS} tokens")
    assert ended > 0.8 * count  # the others are still among spaces and nested lists
