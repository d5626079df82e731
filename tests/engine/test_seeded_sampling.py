"""A seed decides the tokens: alone or among any neighbours, preempted, resumed, in another process."""

import json
import subprocess
import sys

import pytest

from headrace.engine import Request, SamplingParams

from .conftest import prompt, run

RECIPES = {
    "plain": {"temperature": 1.0},
    "top_k": {"temperature": 0.9, "top_k": 20},
    "top_p": {"temperature": 1.1, "top_p": 0.8},
    "min_p": {"temperature": 1.2, "min_p": 0.05},
    "penalties": {"presence_penalty": 0.5, "frequency_penalty": 0.4, "repetition_penalty": 1.3},
    "everything": {
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.01,
        "presence_penalty": 0.3,
        "repetition_penalty": 1.1,
        "logit_bias": {5: 2.0, 9: -3.0},
    },
}


def sampled(recipe: str, name: str = "r", seed: int = 7, **changes: object) -> Request:
    params = SamplingParams(max_tokens=24, seed=seed, **RECIPES[recipe])
    return Request(name, list(prompt(31)), params, **changes)


@pytest.fixture(scope="module")
def alone(make_engine):
    return {recipe: run(make_engine(), sampled(recipe))["r"] for recipe in RECIPES}


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_same_among_neighbours(make_engine, alone, recipe):
    others = [sampled(other, f"n{i}{other}", seed=i) for i in range(6) for other in RECIPES]
    engine = make_engine(max_step_tokens=100)
    outputs = run(engine, *others[:20], sampled(recipe), *others[20:])
    assert outputs["r"] == alone[recipe]


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_same_after_preemption(make_engine, alone, recipe):
    engine = make_engine(num_pages=14)
    outputs = run(engine, *(sampled(recipe, f"r{i}") for i in range(6)))
    assert engine.stats().preemptions > 0
    assert all(tokens == alone[recipe] for tokens in outputs.values())


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("done", [1, 12, 23])
def test_the_same_when_resumed(make_engine, alone, recipe, done):
    resumed = sampled(recipe, output_ids=alone[recipe][:done])
    assert run(make_engine(), resumed)["r"] == alone[recipe][done:]


_RESUME = """
import json, sys
from headrace.engine import Engine, EngineConfig, Request, SamplingParams
job = json.loads(sys.stdin.read())
params = job["params"]
params["logit_bias"] = {int(k): v for k, v in params["logit_bias"].items()}
engine = Engine(EngineConfig(model=job["model"], threads=1))
engine.submit(Request("r", job["prompt"], SamplingParams(**params), output_ids=job["done"]))
tokens = []
while engine.has_work:
    for progress in engine.step():
        tokens += progress.token_ids
print(json.dumps(tokens))
"""


def test_the_same_when_resumed_in_another_process(model_folder, alone):
    tokens = alone["everything"]
    job = {
        "model": str(model_folder("llama")),
        "prompt": prompt(31),
        "params": {"max_tokens": 24, "seed": 7, **RECIPES["everything"]},
        "done": tokens[:12],
    }
    done = subprocess.run(
        [sys.executable, "-c", _RESUME], input=json.dumps(job), capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == tokens[12:]


def test_another_seed_gives_other_tokens(make_engine, alone):
    assert run(make_engine(), sampled("plain", seed=8))["r"] != alone["plain"]
