"""The vLLM engine on a real vLLM, which `make peers PEERS=vllm` installs, with the built-in model."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.engine import (
    EngineConfig,
    EngineProtocol,
    EngineServer,
    FinishReason,
    Request,
    SamplingParams,
    engine_spec,
)
from headrace.engine.conformance import (
    CHECKS,
    a_constraint_may_begin_late,
    an_interrupted_answer_continues_with_the_same_tokens,
)
from headrace.workers.models import resolve_model

from ...support.vllm import ENVIRONMENT, FLAGS, python_or_skip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

GREEDY = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)
PROMPT = [40, 41, 42, 43]
OF_NOISE_BY_POSITION = {
    an_interrupted_answer_continues_with_the_same_tokens,
    a_constraint_may_begin_late,
}


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProtocol]:
    """A server of its own with the built-in model, started as a child."""
    server = EngineServer(python=python_or_skip(), args=FLAGS)
    config = EngineConfig(resolve_model("demo"), dtype="float32", max_batch_size=4, server=server)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        engine = engine_spec("vllm").load(config)
    yield engine
    engine.close()


def tokens(engine: EngineProtocol, *requests: Request) -> dict[str, list[int]]:
    for request in requests:
        engine.submit(request)
    found: dict[str, list[int]] = {request.id: [] for request in requests}
    while engine.has_work:
        for progress in engine.step():
            assert progress.finish_reason is not FinishReason.ERROR, progress.error
            found[progress.id] += progress.token_ids
    return found


def alone(engine: EngineProtocol, params: SamplingParams, known: list[int] | None = None) -> list[int]:
    return tokens(engine, Request("a", PROMPT, params, known or []))["a"]


@pytest.mark.parametrize(
    "check",
    # Its noise is from a generator on a CPU: greedy answers are held to the promise below.
    [each for each in CHECKS if each not in OF_NOISE_BY_POSITION],
    ids=lambda check: check.__name__,
)
def test_it_conforms(check, engine):
    try:
        check(engine)
    finally:
        engine.model_info = replace(engine.model_info, eos_token_ids=(0, 4))


def test_it_is_equal_to_itself_in_any_batch(engine, capsys):
    """What every comparison below rests on; printed, since other models and machines may differ."""
    requests = [Request(str(n), [40 + n, 41, 42, 43], GREEDY) for n in range(8)]
    apart = {request.id: tokens(engine, request)[request.id] for request in requests}
    together = tokens(engine, *requests)
    same = sum(apart[name] == together[name] for name in apart)
    with capsys.disabled():
        print(f"\nvLLM gave {same} of {len(apart)} greedy answers the same tokens in a batch as alone")
    assert same == len(apart)


EXACT = {
    "greedy": GREEDY,
    "presence": replace(GREEDY, presence_penalty=1.5),
    "frequency": replace(GREEDY, frequency_penalty=0.9),
    "repetition": replace(GREEDY, repetition_penalty=1.3),
    "min_tokens": replace(GREEDY, min_tokens=20, ignore_eos=False, stop_token_ids=tuple(range(5, 60))),
    "bad words": replace(GREEDY, bad_words=((61,), (41,), (56, 60))),
    "logit_bias": replace(GREEDY, logit_bias={44: 3.0, 61: -2.0}),
}


@pytest.mark.parametrize("asked", EXACT)
def test_an_answer_continues_with_the_tokens_that_would_have_followed(asked, engine):
    whole = alone(engine, EXACT[asked])
    for known in (1, 7, 19):
        assert alone(engine, EXACT[asked], whole[:known]) == whole[known:], f"after {known} tokens"


def test_a_sampled_answer_continues_with_other_noise_where_vllm_draws_it_from_a_generator(engine):
    sampled = replace(GREEDY, temperature=1.0, seed=7)
    whole = alone(engine, sampled)
    assert alone(engine, sampled) == whole
    assert (alone(engine, sampled, whole[:8]) == whole[8:]) == engine._server.noise_by_position


def test_log_probabilities_are_the_same_after_a_continuation(engine):
    params = replace(GREEDY, logprobs=3, max_tokens=10)
    found = []
    for known in ([], alone(engine, params)[:4]):
        engine.submit(Request("a", PROMPT, params, known))
        entries = []
        while engine.has_work:
            entries += [each for progress in engine.step() for each in progress.logprobs]
        found.append(entries)
    for before, after in zip(found[0][4:], found[1], strict=True):
        assert after.token_id == before.token_id
        assert after.logprob == pytest.approx(before.logprob, abs=1e-3)
        assert [token_id for token_id, _ in after.top] == [token_id for token_id, _ in before.top]


def test_its_processes_end_with_it(engine):
    """Last, since it ends the server that the others use."""
    (leash,) = [
        pid for pid in _children(os.getpid()) if b"leash.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    family = _family(leash)
    assert len(family) >= 3, "the leash, the server and its engine core"
    engine.close()
    assert not [pid for pid in family if Path(f"/proc/{pid}/cmdline").exists()]


def _children(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def _family(pid: int) -> list[int]:
    return [pid, *(each for child in _children(pid) for each in _family(child))]
