"""A step launched before the last one is read changes no token, whatever happens in between.

Run on the CPU, which has computed a step when it is launched, but whose tokens are read a step later all the
same.
"""

import random

import pytest
import torch

from headrace.engine import Engine, EngineConfig, EngineModelInfo, Request, SamplingParams

from ..support.covering import covering
from .conftest import FAMILIES, expected, greedy, prompt, run

OPTIONS = (
    {},
    {"max_step_tokens": 7},
    {"num_pages": 30},
    {"prefix_cache": False},
    {"token_time_objective_s": 0.001},
)


def crowd(seed: int, count: int = 30) -> list[Request]:
    """Requests with every kind of sampling and of end."""
    rng = random.Random(seed)
    return [
        Request(
            f"r{number}",
            list(prompt(rng.choice((1, 15, 16, 17, 31, 200)), number)),
            SamplingParams(
                max_tokens=rng.randint(1, 40),
                temperature=rng.choice((0.0, 1.0)),
                top_k=rng.choice((0, 20)),
                top_p=rng.choice((1.0, 0.8)),
                min_p=rng.choice((0.0, 0.05)),
                repetition_penalty=rng.choice((1.0, 1.0, 1.3)),
                presence_penalty=rng.choice((0.0, 0.0, 0.5)),
                min_tokens=rng.choice((0, 5)),
                stop_token_ids=tuple(range(3, 40)),
                logprobs=rng.choice((None, None, 3)),
                logit_bias=rng.choice(({}, {}, {5: 2.0, 9: -3.0})),
                seed=number,
            ),
            priority=rng.randint(0, 2),
        )
        for number in range(count)
    ]


def everything(engine: Engine, requests: list[Request]) -> dict[str, tuple]:
    """Tokens, log-probabilities and end of each request."""
    outputs = {request.id: ([], [], []) for request in requests}
    for request in requests:
        engine.submit(request)
    while engine.has_work:
        for progress in engine.step():
            tokens, logprobs, ends = outputs[progress.id]
            tokens += progress.token_ids
            logprobs += [(entry.token_id, [i for i, _ in entry.top]) for entry in progress.logprobs]
            ends += [progress.finish_reason] if progress.finish_reason else []
        engine.check()
    assert engine.stats().pages_held == 0
    return outputs


@pytest.mark.parametrize(("family", "options"), covering(FAMILIES, OPTIONS))
def test_a_crowd_gets_the_same_tokens_log_probabilities_and_ends(make_engine, family, options):
    plain = everything(make_engine(family, **options), crowd(1))
    assert everything(make_engine(family, overlap=True, **options), crowd(1)) == plain


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_equal_transformers(make_engine, family):
    requests = [
        Request(f"r{salt}{length}", list(prompt(length, salt)), greedy())
        for salt in range(3)
        for length in (1, 15, 16, 17, 31, 200)
    ]
    outputs = run(make_engine(family, overlap=True, max_step_tokens=100), *requests)
    for request in requests:
        assert outputs[request.id] == expected(family, tuple(request.prompt_ids))


def test_preempted_requests_get_the_same_tokens(make_engine):
    requests = [Request(f"r{salt}", list(prompt(31, salt)), greedy()) for salt in range(6)]
    engine = make_engine(num_pages=14, overlap=True)
    outputs = run(engine, *requests)
    assert engine.stats().preemptions > 0
    assert all(outputs[request.id] == expected("llama", tuple(request.prompt_ids)) for request in requests)


def test_a_prefix_is_found_in_the_cache_as_without_overlap(make_engine):
    engine = make_engine(overlap=True)
    first = run(engine, Request("a", list(prompt(200)), greedy(9)))["a"]
    follow_up = Request("b", [*prompt(200), *first, 7], greedy())
    assert run(engine, follow_up)["b"] == run(make_engine(), follow_up)["b"]
    assert engine.stats().prefix_hit_tokens == 208  # the last page was filled by a token read at the end


def test_a_request_resumed_after_half_its_tokens_goes_on_the_same(make_engine):
    (request,) = crowd(4, 1)
    request.params = SamplingParams(max_tokens=30, seed=5, repetition_penalty=1.3, frequency_penalty=0.2)
    whole = run(make_engine(), request)["r0"]
    request.output_ids = whole[:11]
    assert run(make_engine(overlap=True), request)["r0"] == whole[11:]


class Counting:
    """Gives every row the token after its position; counts rows that are not padding."""

    def __init__(self, num_pages: int = 64) -> None:
        self.model_info = EngineModelInfo("none", 1000, 512, (), 0, "float32")
        self.num_pages, self.device = num_pages, torch.device("cpu")
        self.rows, self.launched, self.most_tokens = 0, 0, 10**9

    def execute(self, step):
        rows = int((step.slots > 0).sum())  # padding goes to slot 0 of the null page
        if rows > self.most_tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.rows, self.launched = self.rows + rows, self.launched + 1
        rows = step.positions if step.sampled is None else step.positions[step.sampled]
        logits = torch.zeros(len(rows), 1000)
        logits[torch.arange(len(rows)), (rows + 1) % 1000] = 1.0
        return logits


def engine_for(model: Counting, **options: object) -> Engine:
    return Engine(EngineConfig(model="none", overlap=True, **options), model)


def counted(name: str, length: int, max_tokens: int, *stop: int) -> Request:
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0, stop_token_ids=stop)
    return Request(name, list(range(length)), params)


def finish(engine: Engine) -> dict[str, list[int]]:
    tokens: dict[str, list[int]] = {}
    while engine.has_work:
        for progress in engine.step():
            tokens[progress.id] = tokens.get(progress.id, []) + progress.token_ids
        engine.check()
    return tokens


def test_a_step_is_launched_before_the_last_one_is_read():
    model = Counting()
    engine = engine_for(model)
    engine.submit(counted("a", 5, 3))
    assert engine.step() == []
    assert model.launched == 1
    (progress,) = engine.step()
    assert (progress.token_ids, model.launched) == ([5], 2)


@pytest.mark.parametrize(("stop", "rows"), [((), 5 + 7), ((8,), 5 + 4)])
def test_a_stop_token_costs_one_wasted_row_and_a_known_length_none(stop, rows):
    model = Counting()
    engine = engine_for(model)
    engine.submit(counted("a", 5, 8, *stop))
    assert finish(engine) == {"a": list(range(5, 9 if stop else 13))}
    assert model.rows == rows


def test_a_request_cancelled_with_a_token_on_its_way_says_no_more():
    engine = engine_for(Counting())
    engine.submit(counted("gone", 5, 50))
    engine.submit(counted("stays", 9, 4))
    engine.step()
    engine.step()
    assert engine.cancel("gone")
    engine.submit(counted("gone", 20, 3))
    assert finish(engine) == {"stays": [10, 11, 12], "gone": [20, 21, 22]}


def test_an_engine_whose_only_request_is_cancelled_has_no_work():
    engine = engine_for(Counting())
    engine.submit(counted("gone", 5, 50))
    engine.step()
    engine.cancel("gone")
    assert not engine.has_work
    engine.submit(counted("next", 3, 2))
    assert finish(engine) == {"next": [3, 4]}


def test_a_wasted_step_that_is_read_after_a_pause_teaches_no_times(monkeypatch):
    engine, measured = engine_for(Counting(), token_time_objective_s=1.0), []
    engine.submit(counted("stops", 5, 50, 8))
    assert finish(engine) == {"stops": [5, 6, 7, 8]}
    monkeypatch.setattr(type(engine._pacer), "measured", lambda _, load, ended_s: measured.append(load))
    engine.submit(counted("next", 3, 3))
    assert finish(engine) == {"next": [3, 4, 5]}
    assert [(load.prompt_tokens, load.decodes) for load in measured] == [(3, 0), (0, 1), (0, 1)]


def test_nobody_loses_pages_that_an_ended_sequence_is_about_to_free():
    engine = engine_for(Counting(num_pages=5), page_size=4, prefix_cache=False)
    engine.submit(counted("ends", 4, 4))  # pages 1 and 2, until its last token is read
    engine.submit(counted("grows", 5, 8))
    assert finish(engine) == {"ends": [4, 5, 6, 7], "grows": list(range(5, 13))}
    assert engine.stats().preemptions == 0


@pytest.mark.parametrize("seed", range(4))
def test_whoever_is_preempted_has_no_token_on_its_way(seed, monkeypatch):
    engine = engine_for(Counting(num_pages=20), page_size=4, max_batch_size=6, max_step_tokens=20)
    preempt, unread = engine._scheduler._preempt, []
    monkeypatch.setattr(
        type(engine._scheduler), "_preempt", lambda self, s: (unread.append(s.unread), preempt(s))
    )
    rng = random.Random(seed)
    wanted = {f"r{n}": rng.randint(5, 30) for n in range(30)}
    for name, count in wanted.items():
        engine.submit(counted(name, rng.randint(1, 20), count))
    assert {name: len(tokens) for name, tokens in finish(engine).items()} == wanted
    assert unread
    assert not any(unread)


def test_a_step_that_runs_out_of_memory_loses_no_token_of_the_one_before():
    model = Counting()
    engine = engine_for(model)
    for number in range(6):
        engine.submit(counted(f"r{number}", 5, 8))
    got: dict[str, list[int]] = {}
    for room in (10**9, 10**9, 3, 3, 3, 10**9):
        model.most_tokens = room
        for progress in engine.step():
            got[progress.id] = got.get(progress.id, []) + progress.token_ids
    for name, tokens in finish(engine).items():
        got[name] = got.get(name, []) + tokens
    assert got == {f"r{number}": list(range(5, 13)) for number in range(6)}


@pytest.mark.parametrize("overlap", [False, True])
def test_a_row_whose_setting_up_ran_out_of_memory_is_set_up_again(make_engine, monkeypatch, overlap):
    engine, refused = make_engine(overlap=overlap), []
    kept = engine._launcher._params
    set_row = kept.set_row

    def once(sequence):
        if not refused:
            refused.append(sequence.row)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        set_row(sequence)

    monkeypatch.setattr(kept, "set_row", once)
    assert everything(engine, crowd(5, 9)) == everything(make_engine(), crowd(5, 9))
    assert refused


def test_only_a_sequence_that_does_not_fit_alone_is_ended_after_its_last_token():
    model = Counting()
    engine = engine_for(model)
    engine.submit(counted("huge", 5, 8))
    engine.step()
    model.most_tokens = 0
    last, ended = engine.step()
    assert last.token_ids == [5]
    assert (ended.id, ended.token_ids, ended.finish_reason) == ("huge", [], "error")
    assert not engine.has_work


def test_time_on_the_host_is_counted_apart_from_the_models(make_engine):
    for overlap in (False, True):
        engine = make_engine(overlap=overlap)
        assert engine.stats().host_s == 0
        run(engine, Request("r", list(prompt(200)), greedy()))
        assert 0 < engine.stats().host_s < 1
