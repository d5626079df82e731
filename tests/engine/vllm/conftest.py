"""An imitated vLLM server, and engines on it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace.engine import EngineConfig, EngineServer, engine_spec
from headrace.engine.vllm.engine import VllmEngine

from .imitation import VOCAB, Imitation


@pytest.fixture
def imitation() -> Iterator[Imitation]:
    with Imitation() as server:
        yield server


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """What the imitation's model says about itself."""
    folder = tmp_path / "imitated"
    folder.mkdir()
    config = {"model_type": "imitated", "vocab_size": VOCAB, "eos_token_id": 2, "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def connect(
    imitation: Imitation, model: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., VllmEngine]]:
    """Makes engines on the imitation."""
    monkeypatch.setattr("headrace.engine.vllm.answering.PAUSE_S", 0.01)
    monkeypatch.setattr("headrace.engine.vllm.engine.WATCH_S", 0.05)
    made = []

    def one(*, stall_s: float = 60.0, **changes: object) -> VllmEngine:
        config = {"model": str(model), "max_batch_size": 4} | changes
        engine = engine_spec("vllm").load(
            EngineConfig(**config, server=EngineServer(imitation.url, stall_s=stall_s))
        )
        made.append(engine)
        return engine

    yield one
    for engine in made:
        engine.close()
