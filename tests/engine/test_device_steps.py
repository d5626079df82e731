"""Shapes, packed inputs, graphs and warm-up of overlapped steps, on the CPU.

Graphs are stood in for by the work itself, done again: it finds its input where it was captured, or not.
"""

import gc
import subprocess
import sys
from collections.abc import Callable, Hashable
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch

from headrace.engine import EngineConfig, ModelError, Request, SamplingParams
from headrace.engine.loading import load_executor
from headrace.engine.overlapped.graphs import CudaGraphs
from headrace.engine.overlapped.inputs import NAMES, _split, packed_bytes
from headrace.engine.overlapped.shapes import PaddedShapes, StepShape
from headrace.engine.overlapped.step import CAPTURED_NEEDS, OverlappedLauncher
from headrace.engine.overlapped.warm_up import warm_up

from .conftest import expected, greedy, prompt, run
from .int4_checkpoint import GPTQ, Quantised
from .test_overlap import crowd, everything

SAMPLED = NAMES[: NAMES.index("token_ids")]
"""The arrays that sampling takes."""


class Again:
    """Graphs whose replay does the captured work again."""

    def __init__(self) -> None:
        self.works: dict[Hashable, Callable[[], object]] = {}
        self.replays: list[Hashable] = []

    def capture(self, key: Hashable, work: Callable[[], object]) -> None:
        work()
        self.works.setdefault(key, work)

    def replay(self, key: Hashable) -> bool:
        if key not in self.works:
            return False
        self.replays.append(key)
        self.works[key]()
        return True


@pytest.fixture
def captured(make_engine, model_folder):
    """An engine whose padded steps are captured, and the graphs."""

    def made(**options: object):
        graphs, engine = Again(), make_engine(overlap=True, **options)
        config = EngineConfig(model="made already", **options)
        steps = OverlappedLauncher(engine._executor, config, engine.capacity_tokens, frozenset(), graphs)
        warm_up(steps, config.step_tokens)
        engine._launcher = steps
        return engine, graphs

    return made


@pytest.mark.parametrize("batch", [1, 2, 3, 8, 64, 100, 256, 1000])
def test_a_batch_is_padded_by_little(batch):
    shapes = PaddedShapes(batch, 4096, 16)
    assert shapes.sizes[-1] == batch
    assert list(shapes.sizes) == sorted(set(shapes.sizes))
    for count in range(1, batch + 1):
        shape = shapes.decodes(count, 1)
        assert shape.sequences - count <= max(7, count // 8)
        assert shape.tokens == shape.samples == shape.sequences


@pytest.mark.parametrize(
    ("capacity", "widths"),
    [(100, (7,)), (2048, (128,)), (2049, (128, 129)), (40_000, (128, 512, 2048, 2500))],
)
def test_block_tables_are_padded_in_wide_strides_up_to_the_capacity(capacity, widths):
    shapes = PaddedShapes(8, capacity, 16)
    assert shapes.widths == widths
    for width in widths:
        assert shapes.decodes(1, width).pages == width
    assert len(list(shapes)) == len(shapes) == len(set(shapes))


@pytest.mark.parametrize(("most", "sizes"), [(0, ()), (1, (1,)), (32, (32,)), (100, (32, 64, 100))])
def test_prompt_chunks_are_padded_up_to_a_size(most, sizes):
    shapes = PaddedShapes(8, 4096, 16, most)
    assert shapes.token_sizes == sizes
    for tokens in range(1, most + 1):
        assert 0 <= shapes.chunks(tokens, 1).tokens - tokens < 64
    assert shapes.chunks(most + 1, 1) is None
    assert len(list(shapes)) == len(shapes) == len(set(shapes))


def test_padding_that_no_sequence_could_hold_is_not_made():
    assert PaddedShapes(8, 20, 16, 100).chunks(70, 1) is None


def test_the_largest_shape_is_captured_first():
    shapes = list(PaddedShapes(20, 10_000, 16))
    assert (shapes[0].sequences, shapes[0].pages) == (20, 625)
    assert [shape.sequences for shape in shapes] == sorted((s.sequences for s in shapes), reverse=True)


def test_every_array_starts_at_a_multiple_of_16_bytes_and_none_overlap(make_engine):
    inputs = make_engine(overlap=True)._launcher._inputs
    for shape in (StepShape(3, 3, 3, 5, decode=True), StepShape(7, 2, 0, 9), StepShape(101, 13, 5, 1)):
        arrays = inputs.idle(shape).arrays
        spans = []
        for name in NAMES:
            view = arrays.params[name] if name in arrays.params else getattr(arrays, name)
            start = view.data_ptr() - inputs._device.data_ptr()
            assert start % 16 == 0 or view.numel() == 0, name
            spans.append((start, start + view.numel() * view.element_size()))
        spans = sorted(span for span in spans if span[0] < span[1])
        assert all(before[1] <= after[0] for before, after in pairwise(spans))
        assert spans[-1][1] <= packed_bytes(shape)


def test_what_sampling_takes_lies_where_it_did_whatever_the_width_of_the_tables():
    def places(width: int) -> list[int]:
        arrays = _split(torch.zeros(1 << 16, dtype=torch.uint8), StepShape(8, 8, 8, width, decode=True))
        return [arrays[name].storage_offset() * arrays[name].element_size() for name in SAMPLED]

    assert places(128) == places(512)


def test_an_input_is_written_where_the_device_has_read_the_one_before(make_engine):
    inputs, told = make_engine(overlap=True)._launcher._inputs, []

    class Copy:
        def __init__(self, buffer: int) -> None:
            self.buffer = buffer

        def synchronize(self) -> None:
            told.append((self.buffer, "free", int(inputs._host[self.buffer].sum())))

        def record(self) -> None:
            told.append((self.buffer, "sent", int(inputs._host[self.buffer].sum())))

    inputs._copied = [Copy(0), Copy(1)]
    for sequences in (3, 5, 7):
        inputs.idle(StepShape(sequences, sequences, sequences, 2, decode=True))
    assert [(buffer, what) for buffer, what, _ in told] == [
        (buffer, what) for buffer in (0, 1, 0) for what in ("free", "sent")
    ]
    first, _, third = (held for _, what, held in told if what == "sent")
    assert [held for _, what, held in told if what == "free"] == [0, 0, first]
    assert third != first


def test_padding_attends_to_the_null_page_alone_and_samples_nothing_of_note(make_engine):
    engine = make_engine(overlap=True, max_batch_size=8)
    packed = engine._launcher._inputs.idle(StepShape(8, 8, 8, 4, decode=True))
    assert packed.arrays.slots.tolist() == [0] * 8
    assert packed.arrays.block_tables[:, 0].tolist() == [0] * 8
    assert packed.arrays.rows.tolist() == [8] * 8
    assert packed.needs == CAPTURED_NEEDS[0]


@pytest.mark.parametrize("options", [{}, {"max_step_tokens": 50, "num_pages": 30}, {"max_batch_size": 5}])
def test_replayed_steps_give_the_same_tokens(make_engine, captured, options):
    engine, graphs = captured(**options)
    assert everything(engine, crowd(2)) == everything(make_engine(), crowd(2))
    assert {key.decode for key in graphs.replays if isinstance(key, StepShape)} == {True, False}


def test_every_decode_step_is_replayed_and_every_small_step_of_prompts(captured):
    engine, graphs = captured(max_batch_size=12, max_step_tokens=600)
    requests = [Request(f"r{salt}", list(prompt(31, salt)), greedy(5)) for salt in range(11)]
    outputs = run(engine, *requests)
    assert all(outputs[r.id] == expected("llama", tuple(r.prompt_ids), 5) for r in requests)
    models = [key for key in graphs.replays if isinstance(key, StepShape)]
    assert [(shape.tokens, shape.sequences) for shape in models] == [(384, 13)] + [(12, 12)] * 4
    graphs.replays.clear()
    run(engine, Request("long", list(prompt(1000)), greedy(2)))
    models = [key for key in graphs.replays if isinstance(key, StepShape)]
    assert [(shape.tokens, shape.sequences) for shape in models] == [
        (448, 13),
        (1, 1),
    ]  # 600 tokens, eagerly, first


@pytest.mark.parametrize(
    ("params", "sampled"),
    [
        ({"temperature": 0.0}, CAPTURED_NEEDS[0]),
        ({"temperature": 1.0}, CAPTURED_NEEDS[0]),
        ({"temperature": 1.0, "top_p": 0.9}, CAPTURED_NEEDS[1]),
        ({"temperature": 0.0, "top_p": 0.9}, CAPTURED_NEEDS[0]),
        ({"repetition_penalty": 1.1}, None),
        ({"logprobs": 2}, None),
        ({"min_tokens": 2, "stop_token_ids": (5,)}, None),
        ({"logit_bias": {5: 1.0}}, None),
    ],
)
def test_sampling_is_replayed_unless_it_needs_what_no_graph_has(captured, params, sampled):
    engine, graphs = captured(max_batch_size=2)
    run(engine, Request("r", list(prompt(5)), SamplingParams(max_tokens=4, **params)))
    needs = {key[1] for key in graphs.replays if isinstance(key, tuple)}
    assert needs == ({sampled} if sampled else set())


def test_a_row_keeps_nothing_of_its_last_owner(make_engine):
    biased = SamplingParams(max_tokens=5, temperature=0.0, logit_bias=dict.fromkeys(range(100, 110), 50.0))
    engine = make_engine(overlap=True, max_batch_size=1)
    run(engine, Request("first", list(prompt(16)), biased))
    assert run(engine, Request("next", list(prompt(17)), greedy()))["next"] == expected("llama", prompt(17))


def test_a_step_of_padding_leaves_pages_as_they_are(make_engine):
    engine = make_engine(overlap=True)
    run(engine, Request("first", list(prompt(200)), greedy()))
    engine._launcher.rehearse(StepShape(40, 3, 3, 128), CAPTURED_NEEDS[1], start=500)
    assert run(engine, Request("again", list(prompt(200)), greedy()))["again"] == expected(
        "llama", prompt(200)
    )
    assert engine.stats().prefix_hit_tokens == 192


@pytest.mark.parametrize(
    "options", [{"max_batch_size": 1}, {"max_batch_size": 1, "num_pages": 3}, {"max_step_tokens": 1}]
)
def test_the_smallest_engines_warm_up(captured, options):
    engine, _ = captured(**options)
    assert run(engine, Request("r", list(prompt(1)), greedy(9)))["r"] == expected("llama", prompt(1), 9)


def test_work_is_done_once_before_its_capture_and_captured_once_into_the_common_pool(monkeypatch):
    told: list[object] = []

    class Graph:
        def replay(self) -> None:
            told.append("replayed")

    @contextmanager
    def capturing(graph: Graph, pool: object):
        told.append(pool)
        yield
        told.append("captured")

    for name, answer in {
        "graph_pool_handle": lambda: "pool",
        "synchronize": lambda _: told.append("idle"),
        "CUDAGraph": Graph,
        "graph": capturing,
    }.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    graphs = CudaGraphs(torch.device("cuda", 0))
    assert not graphs.replay("key")
    for _ in range(2):
        graphs.capture("key", lambda: told.append("work"))
    assert graphs.replay("key")
    assert told == ["work", "idle", "pool", "work", "captured", "replayed"]


def test_a_warm_up_leaves_garbage_collection_as_it_was(captured):
    gc.unfreeze()  # what a test before this one may have frozen
    captured(max_batch_size=1)
    assert gc.get_freeze_count() == 0


def test_a_warm_up_without_memory_says_what_to_change(model_folder):
    config = EngineConfig(model=str(model_folder("llama")), overlap=True)
    executor = load_executor(config)

    def full(_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    executor.execute = full
    with pytest.raises(ModelError, match="gpu_reserve_bytes"):
        warm_up(OverlappedLauncher(executor, config, 100, frozenset()), 512)


_INTERPRETED = """
import os, sys
os.environ["TRITON_INTERPRET"] = "1"
import numpy as np, torch
from headrace.engine import Engine, EngineConfig, Request, SamplingParams
from headrace.kernels import activation, attention, int4_linear, moe, norm, rope_cache, sample

def tokens(overlap):
    sizes = {"max_context_tokens": 64, "max_batch_size": 4, "max_step_tokens": 12, "threads": 1}
    config = EngineConfig(model=sys.argv[1], kv_dtype=sys.argv[2] or None, overlap=overlap, **sizes)
    engine, got = Engine(config), {}
    for name, prompt, params in (
        ("cut", list(range(3, 20)), {"top_p": 0.8, "top_k": 40, "min_p": 0.01}),
        ("greedy", [5, 6, 7], {"temperature": 0.0}),
        ("penalised", [9], {"repetition_penalty": 1.3, "presence_penalty": 0.2, "frequency_penalty": 0.1}),
        ("told", [9, 8], {"logit_bias": {5: 3.0}, "logprobs": 2, "min_tokens": 2, "stop_token_ids": (7,)}),
    ):
        engine.submit(Request(name, prompt, SamplingParams(max_tokens=3, seed=len(prompt), **params)))
    while engine.has_work:
        for progress in engine.step():
            got.setdefault(progress.id, []).extend(progress.token_ids)
            got[progress.id] += [[i for i, _ in entry.top] for entry in progress.logprobs]
    return got

plain = tokens(overlap=False)
for module in (activation, attention, norm, rope_cache, sample):
    module.runs_triton, module.shared_library = lambda x: True, lambda: None
int4_linear.runs_triton = moe.runs_triton = lambda x: True
with np.errstate(all="ignore"):
    assert tokens(overlap=True) == plain
"""


@pytest.mark.parametrize(
    "kind",
    [
        "floats",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("experts", "four bits", "8-bit cache")),
    ],
)
def test_the_gpus_kernels_give_the_cpus_tokens_interpreted(model_folder, tmp_path, kind):
    if kind == "four bits":
        folder = str(Quantised("qwen3", GPTQ).save(tmp_path))
    else:
        folder = str(model_folder("qwen3_moe" if kind == "experts" else "qwen3"))
    command = [sys.executable, "-c", _INTERPRETED, folder, "fp8" if kind == "8-bit cache" else ""]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
