"""The built-in model is what its card says, and speaks."""

import json
from pathlib import Path

import pytest

from headrace.engine import Engine, EngineConfig, Request, SamplingParams
from headrace.workers.engine_process.text import Tokenizer
from headrace.workers.models import resolve_model, served_name

FOLDER = Path(resolve_model("demo"))


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(EngineConfig(model=str(FOLDER), threads=1))


def generate(engine: Engine, ids: list[int], max_tokens: int = 80) -> list[int]:
    engine.submit(Request("demo", ids, SamplingParams(max_tokens=max_tokens, temperature=0.0)))
    tokens: list[int] = []
    while engine.has_work:
        for progress in engine.step():
            tokens += progress.token_ids
    return tokens


def test_it_is_small_and_described(engine):
    size = sum(path.stat().st_size for path in FOLDER.iterdir())
    assert size <= 10_000_000
    assert 2_000_000 <= engine.model_info.num_parameters <= 5_000_000
    assert engine.model_info.dtype == "bfloat16"
    card = (FOLDER / "MODEL_CARD.md").read_text()
    facts = json.loads((FOLDER / "training.json").read_text())
    assert "PSF" in card
    assert facts["python"] in card
    assert f"{facts['tokens']:,}" in card


def test_it_continues_text_with_words(engine):
    tokenizer = Tokenizer(str(FOLDER))
    text = tokenizer.decode(generate(engine, tokenizer.encode("A dictionary is")))
    print(text)
    words = text.split()
    assert len(words) > 10
    assert len(set(words)) > 5


def test_it_answers_a_question_and_ends_by_itself(engine):
    tokenizer = Tokenizer(str(FOLDER))
    tokens = generate(engine, tokenizer.chat([{"role": "user", "content": "What does str.upper do?"}]), 300)
    print(tokenizer.decode(tokens))
    assert tokens[-1] in engine.model_info.eos_token_ids


def test_model_names_are_resolved(tmp_path):
    assert served_name("demo") == "demo"
    assert served_name("Qwen/Qwen3-0.6B") == resolve_model("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    folder = tmp_path / "mine"
    folder.mkdir()
    assert (served_name(str(folder)), resolve_model(str(folder))) == ("mine", str(folder))
