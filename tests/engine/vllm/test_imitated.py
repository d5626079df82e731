"""The vLLM engine on an imitated server: what it promises, how answers continue, and the server's faults."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from headrace.engine import (
    Adapter,
    EngineProtocol,
    FinishReason,
    ModelError,
    Pooling,
    Progress,
    Request,
    RequestError,
    SamplingParams,
    engine_spec,
)
from headrace.engine.conformance import CHECKS
from headrace.engine.errors import ServerLost
from headrace.engine.vllm.engine import VllmEngine

from ...support.waiting import wait_until
from .imitation import Imitation

Connect = Callable[..., VllmEngine]

GREEDY = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)
SAMPLED = replace(GREEDY, temperature=1.0, seed=7)
PROMPT = [5, 9, 11, 9]


def run(engine: EngineProtocol, *requests: Request) -> dict[str, list[Progress]]:
    for request in requests:
        engine.submit(request)
    found: dict[str, list[Progress]] = {}
    while engine.has_work:
        for progress in engine.step():
            found.setdefault(progress.id, []).append(progress)
    return found


def generate_for_ever(engine: EngineProtocol) -> None:
    while True:
        run(engine, Request("a", PROMPT, replace(GREEDY, max_tokens=200)))


def tokens(engine: EngineProtocol, params: SamplingParams, known: list[int] | None = None) -> list[int]:
    found = run(engine, Request("a", PROMPT, params, known or []))["a"]
    assert found[-1].finish_reason is not FinishReason.ERROR, found[-1].error
    return [token_id for each in found for token_id in each.token_ids]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_conforms(check: Callable[[EngineProtocol], None], connect: Connect):
    check(connect())


EXACT = {
    "greedy": GREEDY,
    "sampled": SAMPLED,
    "presence": replace(GREEDY, presence_penalty=1.5),
    "frequency": replace(GREEDY, frequency_penalty=0.9),
    "both penalties, sampled": replace(SAMPLED, presence_penalty=1.5, frequency_penalty=-0.5),
    "repetition": replace(GREEDY, repetition_penalty=1.7),
    "min_tokens": replace(GREEDY, min_tokens=20, ignore_eos=False, stop_token_ids=tuple(range(3, 40))),
    "bad words": replace(SAMPLED, bad_words=((1,), (9, 4), (33,), (17,), (20, 21))),
    "bad words, cut off": replace(SAMPLED, top_k=8, bad_words=((1,), (33,), (17,), (20, 21))),
    "bias and allowed": replace(SAMPLED, logit_bias={4: 2.0}, allowed_token_ids=tuple(range(4, 30))),
}


@pytest.mark.parametrize("asked", EXACT)
def test_an_answer_continues_with_the_tokens_that_would_have_followed(asked: str, connect: Connect):
    engine, params = connect(), EXACT[asked]
    whole = tokens(engine, params)
    assert len(whole) >= 20
    for known in range(1, len(whole), 3):
        assert tokens(engine, params, whole[:known]) == whole[known:], f"after {known} tokens"


def test_noise_from_a_generator_is_not_repeated_when_an_answer_continues(
    imitation: Imitation, connect: Connect
):
    imitation.noise = "generator"
    engine = connect()
    whole = tokens(engine, SAMPLED)
    assert tokens(engine, SAMPLED) == whole
    tokens(engine, SAMPLED, whole[:9])
    seeds = [body["sampling_params"]["seed"] for body in imitation.bodies]
    assert seeds[0] == seeds[1] == SAMPLED.seed != seeds[2]


def test_log_probabilities_are_the_models_own_before_and_after_a_continuation(connect: Connect):
    engine, params = connect(), replace(GREEDY, logprobs=3, frequency_penalty=0.9, max_tokens=12)
    whole = run(engine, Request("a", PROMPT, params))["a"]
    rest = run(engine, Request("a", PROMPT, params, [each.token_ids[0] for each in whole[:5]]))["a"]
    assert [each.logprobs for each in rest] == [each.logprobs for each in whole[5:]]
    for progress in whole:
        (entry,) = progress.logprobs
        assert (entry.token_id, len(entry.top)) == (progress.token_ids[0], 3)
        assert [logprob for _, logprob in entry.top] == sorted((each for _, each in entry.top), reverse=True)


def test_an_answer_that_breaks_off_continues_on_a_server_that_is_well(imitation: Imitation, connect: Connect):
    engine = connect()
    whole = tokens(engine, GREEDY)
    imitation.breaks_after = [4, 0, 7]
    imitation.refusals = [503, 500]
    assert tokens(engine, GREEDY) == whole


def test_a_server_that_keeps_failing_on_one_request_fails_only_that(imitation: Imitation, connect: Connect):
    engine = connect()
    imitation.refusals = [500] * 5
    (failed,) = run(engine, Request("a", PROMPT, GREEDY))["a"]
    assert (failed.finish_reason, failed.error) == (
        FinishReason.ERROR,
        "vLLM doesn't answer it: status 500: not now",
    )
    assert len(tokens(engine, GREEDY)) == GREEDY.max_tokens


def test_what_vllm_refuses_fails_with_its_reason(connect: Connect):
    (failed,) = run(connect(), Request("a", PROMPT, replace(SAMPLED, temperature=3.0)))["a"]
    assert failed.error == "vLLM refuses the request: temperature must be in [0, 2]"


@pytest.mark.parametrize(
    "asked", [{"pooling": Pooling("last")}, {"prompt_logprobs": 1}, {"adapter": Adapter("a", "/a", "0" * 16)}]
)
def test_what_this_engine_can_not_do_is_refused_by_name(asked: dict[str, Any], connect: Connect):
    with pytest.raises(RequestError) as refused:
        connect().submit(Request("a", PROMPT, GREEDY, **asked))
    assert refused.value.field == next(iter(asked))


def test_it_is_refused_where_answers_have_to_be_deterministic():
    with pytest.raises(ModelError, match="deterministic"):
        engine_spec("vllm", deterministic=True)


def test_a_cancelled_request_is_aborted_there(imitation: Imitation, connect: Connect):
    engine = connect()
    imitation.hangs = True
    engine.submit(Request("a", PROMPT, GREEDY))
    wait_until(lambda: imitation.running)
    (name,) = imitation.running
    assert engine.cancel("a")
    wait_until(lambda: name in imitation.aborted and not imitation.running)


def test_a_server_that_hangs_is_given_up(imitation: Imitation, connect: Connect):
    engine = connect(stall_s=0.2)
    imitation.hangs = True
    engine.submit(Request("a", PROMPT, GREEDY))
    with pytest.raises(ServerLost, match=r"no token for 0\.2 s, though 1 requests run"):
        run(engine)


@pytest.mark.parametrize("fault", ["restarted", "another model", "gone"])
def test_a_server_that_is_another_one_is_lost(fault: str, imitation: Imitation, connect: Connect):
    engine = connect()
    if fault == "restarted":
        imitation.started += 1
    elif fault == "another model":
        imitation.model, imitation.started = "other", 2.0
    else:
        imitation.__exit__()
    with pytest.raises(ServerLost):
        generate_for_ever(engine)


def test_nothing_is_claimed_while_others_wait_there(imitation: Imitation, connect: Connect):
    engine = connect()
    assert engine.free_slots == 4
    imitation.waiting = 1
    wait_until(lambda: engine.free_slots == 0)
    imitation.waiting = 0
    wait_until(lambda: engine.free_slots == 4)


@pytest.mark.parametrize(
    ("what", "value", "reason"),
    [
        ("version", "0.31.2", "runs vLLM 0.31.2; headrace needs 0.32 or newer"),
        ("model", "other", "only: other; set model to what it loaded"),
    ],
)
def test_a_server_that_can_not_be_used_is_refused_with_the_reason(
    what: str, value: str, reason: str, imitation: Imitation, connect: Connect
):
    setattr(imitation, what, value)
    with pytest.raises(ModelError, match=reason):
        connect()
