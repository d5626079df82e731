"""The vLLM engine on a server that answers with what no vLLM would: nothing of it gets further."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from headrace.engine import EngineConfig, EngineServer, FinishReason, ModelError, Request, engine_spec
from headrace.engine.vllm.engine import VllmEngine
from headrace.schemas.errors import BadSetting
from headrace.workers.settings import WorkerSettings

from ...support.waiting import wait_until
from .imitation import CONTEXT, VOCAB, Imitation
from .test_imitated import GREEDY, PROMPT, SAMPLED, run, tokens

Connect = Callable[..., VllmEngine]


def with_choice(**changes: object) -> Callable[[dict[str, Any]], str]:
    def told(event: dict[str, Any]) -> str:
        return json.dumps({"choices": [event["choices"][0] | changes]})

    return told


def with_logprob(value: object) -> Callable[[dict[str, Any]], str]:
    def told(event: dict[str, Any]) -> str:
        (choice,) = event["choices"]
        choice["logprobs"]["content"][0]["logprob"] = value
        return json.dumps(event)

    return told


STRANGE = {
    "a token beyond the vocabulary": with_choice(token_ids=[VOCAB]),
    "a negative token": with_choice(token_ids=[-1]),
    "a token as text": with_choice(token_ids=["7"]),
    "half a token": with_choice(token_ids=[7.5]),
    "an infinite token": with_choice(token_ids=[float("inf")]),
    "no list": with_choice(token_ids=7),
    "no log-probabilities": with_choice(logprobs=None),
    "a log-probability that is no number": with_logprob(float("nan")),
    "an infinite log-probability": with_logprob(float("inf")),
    "a log-probability as text": with_logprob("-1"),
    "no object": lambda event: "[]",
    "no JSON": lambda event: "{",
    "too deep": lambda event: "[" * 200_000,
}


@pytest.mark.parametrize("event", STRANGE)
def test_a_strange_event_is_dropped_and_the_answer_asked_for_again(
    event: str, imitation: Imitation, connect: Connect
):
    engine, params = connect(), replace(GREEDY, logprobs=2, max_tokens=6)
    whole = run(engine, Request("a", PROMPT, params))["a"]
    imitation.events = [STRANGE[event]]
    assert run(engine, Request("a", PROMPT, params))["a"] == whole


def test_no_more_tokens_are_taken_than_were_asked_for(imitation: Imitation, connect: Connect):
    imitation.events = [with_choice(token_ids=[3] * 1000)]
    assert tokens(connect(), GREEDY) == [3] * GREEDY.max_tokens


def test_a_token_that_its_mask_forbids_is_not_taken(imitation: Imitation, connect: Connect):
    engine, params = connect(), replace(SAMPLED, top_k=8, max_tokens=3, bad_words=((9,),))
    whole = tokens(engine, params)
    imitation.events = [with_choice(token_ids=[9])]
    assert tokens(engine, params) == whole


@pytest.mark.parametrize("value", ["NaN", "+Inf", "many"])
def test_metrics_that_are_no_numbers_end_neither_the_watch_nor_a_step(
    value: str, imitation: Imitation, connect: Connect
):
    engine = connect()
    imitation.more_metrics = f'vllm:num_requests_running{{engine="1"}} {value}'
    wait_until(lambda: engine._lost is not None)
    assert engine._lost is not None
    assert "vllm:num_requests_running" in engine._lost
    assert engine.free_tokens >= 0


def test_a_key_that_can_not_be_sent_is_refused_without_being_repeated(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("VLLM_API_KEY", "secret\n")
    with pytest.raises(ModelError, match="VLLM_API_KEY has a space, a line break") as refused:
        connect()
    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_server_that_wants_a_key_says_so(
    imitation: Imitation, connect: Connect, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    imitation.key = "secret"
    with pytest.raises(ModelError, match="wants an API key: set VLLM_API_KEY"):
        connect()
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    assert tokens(connect(), GREEDY)


def test_a_python_that_is_not_there_leaves_nothing_open(model):
    with pytest.raises(ModelError, match="engine_python: there is no '/no/python'"):
        engine_spec("vllm").load(EngineConfig(str(model), server=EngineServer(python="/no/python")))
    assert not [each for each in threading.enumerate() if each.name.startswith("headrace-vllm")]


def test_a_running_server_is_used_up_to_max_context_tokens(connect: Connect):
    engine, most = connect(max_context_tokens=32), replace(GREEDY, max_tokens=CONTEXT)
    whole = tokens(engine, most)
    assert len(whole) == 32 - len(PROMPT)
    (end,) = run(engine, Request("a", PROMPT, most, [*whole, 7]))["a"]
    assert (end.token_ids, end.finish_reason) == ([], FinishReason.LENGTH)


@pytest.mark.parametrize("port", ["99999", "vllm"])
def test_a_url_whose_port_is_none_is_refused_by_name(port: str):
    with pytest.raises(BadSetting, match=r"setting engine_url = .*Port"):
        WorkerSettings.load(model="demo", engine="vllm", engine_url=f"http://host:{port}")
