"""What a step computes, over an executor that computes nothing."""

import random

import pytest
import torch

from headrace.engine import Engine, EngineConfig, EngineModelInfo, Request, SamplingParams


class NoModel:
    """Gives every row the token after its position; remembers what each step was made of."""

    def __init__(self, num_pages: int = 64, context: int = 512) -> None:
        self.model_info = EngineModelInfo("none", 1000, context, (), 0, "float32")
        self.num_pages, self.device = num_pages, torch.device("cpu")
        self.steps: list[list[int]] = []

    def execute(self, step):
        self.steps.append(step.query_starts.diff().tolist())
        rows = step.positions if step.sampled is None else step.positions[step.sampled]
        logits = torch.zeros(len(rows), 1000)
        logits[torch.arange(len(rows)), (rows + 1) % 1000] = 1.0
        return logits


def engine_for(model: NoModel, **options: object) -> Engine:
    return Engine(EngineConfig(model="none", **options), model)


def request(name: str, length: int, max_tokens: int = 8, **fields: object) -> Request:
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0)
    return Request(name, list(range(1, length + 1)), params, **fields)


def finish(engine: Engine) -> dict[str, int]:
    counts: dict[str, int] = {}
    while engine.has_work:
        for progress in engine.step():
            counts[progress.id] = counts.get(progress.id, 0) + len(progress.token_ids)
        engine.check()
    return counts


def test_decodes_come_first_and_a_prompt_fills_the_rest_of_the_budget():
    model = NoModel()
    engine = engine_for(model, max_step_tokens=20)
    for name in "ab":
        engine.submit(request(name, 5))
    engine.step()
    engine.submit(request("long", 50))
    engine.step()
    assert model.steps == [[5, 5], [1, 1, 18]]


def test_a_step_never_exceeds_its_budget():
    model = NoModel(num_pages=400)
    engine = engine_for(model, max_step_tokens=32)
    for number in range(30):
        engine.submit(request(f"r{number}", 5 + 3 * number))
    finish(engine)
    assert max(map(sum, model.steps)) <= 32


def test_requests_start_in_order_of_class_then_arrival():
    engine = engine_for(NoModel(), max_batch_size=1)
    for name, priority in (("batch", 2), ("standard", 1), ("interactive", 0), ("later", 0)):
        engine.submit(request(name, 5, 1, priority=priority))
    order = []
    while engine.has_work:
        order += [progress.id for progress in engine.step()]
    assert order == ["interactive", "later", "standard", "batch"]


def test_the_youngest_of_the_lowest_class_is_preempted():
    model = NoModel(num_pages=7)
    engine = engine_for(model, page_size=4)
    engine.submit(request("first", 8, 12, cache_salt="a"))
    engine.submit(request("low", 8, 12, cache_salt="b", priority=2))
    preempted = []
    while engine.has_work:
        engine.step()
        preempted += [s.request.id for s in engine._scheduler.waiting]
    assert set(preempted) == {"low"}


def test_one_sequence_alone_may_use_every_page():
    engine = engine_for(NoModel(num_pages=5), page_size=4)
    assert finish_one(engine, request("only", 3, 100)) == 13
    assert engine.stats().preemptions == 0


def finish_one(engine: Engine, only: Request) -> int:
    engine.submit(only)
    return finish(engine)[only.id]


def test_free_tokens_and_slots_count_what_waits():
    engine = engine_for(NoModel(num_pages=11), page_size=4, max_batch_size=3)
    assert (engine.free_tokens, engine.free_slots) == (40, 3)
    engine.submit(request("a", 7))
    assert (engine.free_tokens, engine.free_slots) == (32, 2)
    engine.step()
    assert (engine.free_tokens, engine.free_slots) == (32, 2)


@pytest.mark.parametrize("seed", range(6))
def test_a_random_crowd_ends_with_every_token_and_no_page_held(seed):
    rng = random.Random(seed)
    model = NoModel(num_pages=rng.randint(12, 40), context=100)
    engine = engine_for(
        model, page_size=4, max_batch_size=rng.randint(2, 9), max_step_tokens=rng.randint(1, 30)
    )
    wanted, got, cancelled = {}, {}, set()
    for number in range(120):
        name, length = f"r{number}", rng.randint(1, 40)
        if length < engine.capacity_tokens:
            wanted[name] = min(rng.randint(1, 20), engine.capacity_tokens - length)
            engine.submit(request(name, length, wanted[name], priority=rng.randint(0, 2)))
        for _ in range(rng.randint(0, 6)):
            for progress in engine.step():
                got[progress.id] = got.get(progress.id, 0) + len(progress.token_ids)
            engine.check()
        if rng.random() < 0.1:
            name = rng.choice(list(wanted))
            if engine.cancel(name):
                cancelled.add(name)
    for name, count in finish(engine).items():
        got[name] = got.get(name, 0) + count
    assert {name: got[name] for name in wanted if name not in cancelled} == {
        name: count for name, count in wanted.items() if name not in cancelled
    }
    assert engine.stats().pages_held == 0


def test_at_saturation_nearly_every_reserved_page_is_full_of_tokens():
    engine = engine_for(NoModel(num_pages=1200, context=2048), max_batch_size=64, max_step_tokens=512)
    rng = random.Random(0)
    for number in range(100):
        engine.submit(request(f"r{number}", rng.randint(200, 400), 400, cache_salt=str(number)))
    shares = []
    while engine.has_work:
        engine.step()
        stats = engine.stats()
        if stats.waiting and stats.pages_free < 0.05 * stats.pages_total:
            shares.append(stats.tokens_held / (stats.pages_held * engine.page_size))
    share = sum(shares) / len(shares)
    print(f"KV use at saturation: {share:.1%} of reserved page slots hold tokens ({len(shares)} steps)")
    assert share >= 0.96


class NoMemory(NoModel):
    """Has memory for so many tokens a step."""

    def __init__(self, most_tokens: int, **options: int) -> None:
        super().__init__(**options)
        self.most_tokens, self.refused = most_tokens, 0

    def execute(self, step):
        if len(step.token_ids) > self.most_tokens:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().execute(step)


def test_a_step_that_runs_out_of_memory_is_tried_smaller_and_nobody_loses_a_token():
    model = NoMemory(12)
    engine = engine_for(model, max_step_tokens=64)
    for number in range(8):
        engine.submit(request(f"r{number}", 20))
    assert finish(engine) == {f"r{number}": 8 for number in range(8)}
    assert model.refused > 0
    assert max(map(sum, model.steps)) == 12


def test_only_a_sequence_that_does_not_fit_alone_is_ended():
    model = NoMemory(0)
    engine = engine_for(model)
    engine.submit(request("huge", 5))
    while not (progress := engine.step()):
        engine.check()
    assert [(item.id, item.finish_reason, item.error != "") for item in progress] == [("huge", "error", True)]
    assert not engine.has_work
    model.most_tokens = 8
    engine.submit(request("small", 5))
    assert finish(engine) == {"small": 8}


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 12"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=str,
)
def test_all_words_for_no_memory_are_understood(error):
    class Once(NoModel):
        failed = False

        def execute(self, step):
            if not self.failed:
                self.failed = True
                raise error
            return super().execute(step)

    engine = engine_for(Once())
    engine.submit(request("a", 20))
    assert finish(engine) == {"a": 8}


def test_any_other_error_of_a_step_is_the_processs_own():
    class Broken(NoModel):
        def execute(self, step):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    engine = engine_for(Broken())
    engine.submit(request("a", 5))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        engine.step()
