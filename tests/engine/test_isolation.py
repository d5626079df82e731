"""What one sequence brings about in a step ends that sequence; the others get the tokens they get alone."""

from dataclasses import replace

import pytest
import torch

from headrace.engine import Engine, EngineConfig, FinishReason, Request, RequestError, SamplingParams
from headrace.engine.engine import MOST_BLAMED
from headrace.engine.loading import load_executor

from .conftest import greedy, prompt, run

POISON = 299
"""A token that no other prompt has and that no sequence samples: its logit is lowered."""

STEPS = pytest.mark.parametrize("overlap", [False, True], ids=["plain", "overlapped"])


class Faulty:
    """The real model, whose steps raise while they have one of some tokens in them."""

    def __init__(self, folder, *, bad=frozenset({POISON}), **options) -> None:
        self.config = EngineConfig(model=str(folder), threads=1, **options)
        self._real = load_executor(self.config)
        self.model_info, self.num_pages, self.device = (
            self._real.model_info,
            self._real.num_pages,
            self._real.device,
        )
        self.bad, self.failures = set(bad), 0
        self.error: Exception = IndexError("index 299 is out of bounds")

    @torch.inference_mode()
    def execute(self, step):
        if self.bad & set(step.token_ids.tolist()):
            self.failures += 1
            raise self.error
        logits = self._real.execute(step)
        logits[:, POISON] = -1e4
        return logits


def engine_of(faulty: Faulty) -> Engine:
    return Engine(faulty.config, faulty)


def good(count: int) -> list[Request]:
    seeded = SamplingParams(max_tokens=12, seed=5, top_p=0.9, logit_bias={POISON: -100.0})
    return [
        Request(f"good{i}", [t % POISON for t in prompt(7 + 9 * i)], seeded if i % 2 else greedy(12))
        for i in range(count)
    ]


def ends(engine: Engine, *requests: Request) -> tuple[dict[str, list[int]], dict[str, str]]:
    """All tokens, and what was said of those that failed."""
    outputs: dict[str, list[int]] = {request.id: [] for request in requests}
    errors: dict[str, str] = {}
    for request in requests:
        engine.submit(request)
    while engine.has_work:
        for progress in engine.step():
            outputs[progress.id] += progress.token_ids
            if progress.finish_reason is FinishReason.ERROR:
                errors[progress.id] = progress.error
        engine.check()
    assert engine.stats().pages_held == 0
    return outputs, errors


@STEPS
@pytest.mark.parametrize("culprits", [1, 3])
def test_what_fails_alone_is_ended_with_its_reason_and_the_others_lose_nothing(
    model_folder, overlap, culprits, caplog
):
    expected = run(Engine(EngineConfig(model=str(model_folder("llama")), overlap=overlap)), *good(6))
    faulty = Faulty(model_folder("llama"), overlap=overlap)
    requests = good(6)
    for i in range(culprits):
        requests.insert(2 * i, Request(f"bad{i}", [3 + i, POISON, 5], greedy(), cache_salt="bad"))
    outputs, errors = ends(engine_of(faulty), *requests)
    assert set(errors) == {f"bad{i}" for i in range(culprits)}
    assert all("IndexError: index 299 is out of bounds" in error for error in errors.values())
    assert {name: tokens for name, tokens in outputs.items() if name not in errors} == expected
    tracebacks = [record for record in caplog.records if record.exc_info]
    assert len(tracebacks) == culprits


@STEPS
def test_a_sequence_that_fails_in_its_middle_fails_then(model_folder, overlap):
    expected = run(Engine(EngineConfig(model=str(model_folder("llama")), overlap=overlap)), *good(4))
    turns_bad = expected["good2"][5]
    faulty = Faulty(model_folder("llama"), overlap=overlap, bad={turns_bad})
    outputs, errors = ends(engine_of(faulty), good(4)[2])
    assert list(errors) == ["good2"]
    assert outputs["good2"] == expected["good2"][: expected["good2"].index(turns_bad) + 1]


def test_with_nothing_else_to_compute_one_sequence_can_still_be_blamed(model_folder):
    engine = engine_of(Faulty(model_folder("llama")))
    _, errors = ends(engine, Request("only", [POISON], greedy()))
    assert list(errors) == ["only"]
    assert run(engine, Request("next", [4, 5], greedy(3)))["next"]


@STEPS
def test_when_a_step_of_nobodys_fails_too_no_sequence_is_blamed(model_folder, overlap):
    faulty = Faulty(model_folder("llama"), overlap=overlap)
    engine = engine_of(faulty)
    for request in good(3):
        engine.submit(request)
    engine.step()
    faulty.bad = set(range(300))
    with pytest.raises(IndexError, match="out of bounds"):
        engine.step()


@pytest.mark.parametrize("error", [IndexError("out of bounds"), torch.OutOfMemoryError("out of memory")])
def test_when_one_sequence_after_the_other_fails_none_of_the_rest_is_blamed(model_folder, error):
    faulty = Faulty(model_folder("llama"), bad=set(range(3, 300)))
    faulty.error = error
    engine = engine_of(faulty)
    with pytest.raises(type(error), match="out of"):
        ends(engine, *(Request(f"r{i}", [4 + i], greedy()) for i in range(MOST_BLAMED + 2)))
    assert engine.stats().running == 2


def test_good_steps_between_them_tell_many_bad_sequences_from_a_bad_engine(model_folder):
    requests = [Request(f"bad{i}", [POISON], greedy()) for i in range(3 * MOST_BLAMED)]
    for i in range(3):
        requests.insert(8 * i, good(3)[i])
    _, errors = ends(engine_of(Faulty(model_folder("llama"), max_batch_size=8)), *requests)
    assert len(errors) == 3 * MOST_BLAMED


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: device-side assert triggered",
        "Triton Error [CUDA]: misaligned address",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`",
    ],
)
def test_an_error_of_the_gpu_is_raised_at_once(model_folder, message):
    faulty = Faulty(model_folder("llama"))
    faulty.error = RuntimeError(message)
    engine = engine_of(faulty)
    for request in (*good(4), Request("bad", [POISON], greedy())):
        engine.submit(request)
    with pytest.raises(RuntimeError, match=message[:10]):
        engine.step()
    assert faulty.failures == 1


def test_memory_that_runs_out_while_a_culprit_is_looked_for_costs_nobody_a_token(model_folder):
    class Both(Faulty):
        refused = 0

        @torch.inference_mode()
        def execute(self, step):
            if not self.bad & set(step.token_ids.tolist()) and len(step.token_ids) > 20:
                self.refused += 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return super().execute(step)

    expected = run(Engine(EngineConfig(model=str(model_folder("llama")))), *good(6))
    faulty = Both(model_folder("llama"), max_step_tokens=200)
    outputs, errors = ends(engine_of(faulty), Request("bad", [POISON], greedy()), *good(6))
    assert list(errors) == ["bad"]
    assert faulty.refused
    assert {name: tokens for name, tokens in outputs.items() if name != "bad"} == expected


@pytest.mark.parametrize(
    ("field", "params"),
    [
        ("temperature", {"temperature": float("nan")}),
        ("temperature", {"temperature": -1.0}),
        ("top_p", {"top_p": float("inf")}),
        ("min_p", {"min_p": 10**400}),
        ("repetition_penalty", {"repetition_penalty": -0.0}),
        ("presence_penalty", {"presence_penalty": float("-inf")}),
        ("logit_bias", {"logit_bias": {3: float("nan")}}),
        ("seed", {"seed": 2**63}),
        ("request", {"logprobs": "many"}),
        ("request", {"stop_token_ids": None}),
    ],
)
def test_numbers_that_mean_nothing_are_refused_by_name_and_others_run_on(make_engine, field, params):
    engine = make_engine()
    engine.submit(Request("good", [4, 5], greedy(4)))
    with pytest.raises(RequestError) as refused:
        engine.submit(Request("bad", [3], SamplingParams(**params)))
    assert refused.value.field == field
    engine.submit(Request("bad", [3], greedy(1)))  # nothing of it was kept
    while engine.has_work:
        engine.step()
        engine.check()


# Logits that are no numbers ---------------------------------------------------------------------------------


KINDS = {
    "greedy": {"temperature": 0.0},
    "sampled": {"seed": 1},
    "top_p": {"seed": 1, "top_p": 0.9},
    "top_k": {"seed": 1, "top_k": 5},
    "min_p": {"seed": 1, "min_p": 0.1},
    "logprobs": {"temperature": 0.0, "logprobs": 2},
    "penalties": {"seed": 1, "repetition_penalty": 1.2, "frequency_penalty": 0.5, "top_p": 0.5},
    "minimum": {"seed": 1, "min_tokens": 5, "stop_token_ids": (7,), "logit_bias": {8: 1.0}},
}


@STEPS
@pytest.mark.parametrize(
    ("family", "dtype"), [("llama", "float32"), ("llama", "bfloat16"), ("qwen3_moe", "float32")]
)
def test_a_sequence_whose_logits_are_no_numbers_ends_alone(model_folder, overlap, family, dtype):
    options = {"model": str(model_folder(family)), "dtype": dtype, "overlap": overlap, "threads": 1}
    neighbours = [
        replace(
            request,
            id=f"{request.id}-{kind}",
            params=replace(request.params, **{**KINDS[kind], "logit_bias": {POISON: -100.0}}),
        )
        for request, kind in zip(good(len(KINDS)), KINDS, strict=True)
    ]
    expected = run(Engine(EngineConfig(**options)), *neighbours)
    executor = load_executor(EngineConfig(**options))
    with torch.inference_mode():
        executor._decoder.embedding[POISON] = torch.nan
    engine = Engine(EngineConfig(**options), executor)
    bad = [
        Request(kind, [3, 4, POISON], SamplingParams(max_tokens=6, **params))
        for kind, params in KINDS.items()
    ]
    outputs, errors = ends(engine, *(pair for both in zip(bad, neighbours, strict=True) for pair in both))
    assert set(errors) == set(KINDS)
    assert all("NaN or infinity" in error for error in errors.values())
    assert all(outputs[kind] == [] for kind in KINDS)
    assert {request.id: outputs[request.id] for request in neighbours} == expected
    assert engine.stats().pages_cached > 0
    assert engine._scheduler._find_prefix(_sequence([3, 4, *[POISON] * 60])) == []


def _sequence(tokens: list[int]):
    from headrace.engine.sequence import Sequence

    return Sequence(Request("any", tokens, greedy()), tokens, arrival=0, limit=100)


@STEPS
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_infinite_logit_is_as_bad_as_none_that_is_finite(model_folder, overlap, value):
    class Infinite(Faulty):
        @torch.inference_mode()
        def execute(self, step):
            logits = self._real.execute(step)
            last = step.token_ids if step.sampled is None else step.token_ids[step.sampled]
            logits[last == POISON, slice(None) if value == float("-inf") else slice(17, 18)] = value
            logits[last != POISON, POISON] = -1e4
            return logits

    _, errors = ends(
        engine_of(Infinite(model_folder("llama"), overlap=overlap)),
        *(Request(kind, [POISON], SamplingParams(max_tokens=3, **params)) for kind, params in KINDS.items()),
        *good(2),
    )
    assert set(errors) == set(KINDS)


@STEPS
def test_what_is_impossible_has_a_log_probability_that_json_can_say(model_folder, overlap):
    class Narrow(Faulty):
        @torch.inference_mode()
        def execute(self, step):
            logits = self._real.execute(step)
            logits[:, 2:] = -torch.inf
            return logits

    engine = engine_of(Narrow(model_folder("llama"), overlap=overlap))
    engine.submit(Request("r", [3], SamplingParams(max_tokens=2, temperature=0.0, logprobs=4)))
    entries = [entry for _ in range(4) for progress in engine.step() for entry in progress.logprobs]
    assert [[value for _, value in entry.top][2:] for entry in entries] == [[-9999.0] * 2] * 2
