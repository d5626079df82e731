"""What is left of a GPU's memory for KV pages. The steps are real and run on the CPU; what torch.cuda would
say of their memory is made up here.
"""

import pytest
import torch

from headrace.engine import EngineConfig, ModelError
from headrace.engine.loading import _device, load_executor
from headrace.engine.overlapped.memory import kv_memory

MIB, GIB = 1 << 20, 1 << 30


class FakeGpu:
    """A GPU's memory as torch.cuda tells it: each run of a step takes the next of `peaks`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, total: int, free: int, peaks: list[int]) -> None:
        self.peaks, self.calls = peaks, 0
        for name, answer in {
            "mem_get_info": lambda _: (free, total),
            "memory_reserved": lambda _: GIB,
            "max_memory_reserved": lambda _: GIB + self._next(),
            "reset_peak_memory_stats": lambda _: None,
            "synchronize": lambda _: None,
            "empty_cache": lambda: None,
        }.items():
            monkeypatch.setattr(torch.cuda, name, answer)

    def _next(self) -> int:
        self.calls += 1
        return self.peaks[self.calls - 1]


@pytest.fixture(scope="module")
def config(model_folder) -> EngineConfig:
    return EngineConfig(
        model=str(model_folder("llama")), num_pages=2, max_batch_size=8, max_step_tokens=100, page_size=16
    )


def left(config: EngineConfig, **changes: object) -> int:
    changed = EngineConfig(**{name: getattr(config, name) for name in config.__slots__} | changes)
    return kv_memory(load_executor(config)._decoder, changed, context_tokens=64, vocab=300)


def test_pages_get_what_steps_graphs_and_the_reserve_leave(monkeypatch, config):
    FakeGpu(monkeypatch, total=80 * GIB, free=60 * GIB, peaks=[3 * GIB, GIB])
    known = left(config, gpu_reserve_bytes=GIB)
    assert 54 * GIB < known < 55 * GIB  # 60 - 3 - 1 - 1, less some for each graph and the steps' buffers


def test_without_graphs_their_memory_is_left_to_pages(monkeypatch, config):
    FakeGpu(monkeypatch, total=80 * GIB, free=60 * GIB, peaks=[3 * GIB])
    assert 56 * GIB - MIB < left(config, gpu_reserve_bytes=GIB, cuda_graphs=False) < 56 * GIB


@pytest.mark.parametrize(("total", "reserve"), [(8 * GIB, 512 * MIB), (100 * GIB, 3 * GIB)])
def test_a_reserve_that_is_not_set_is_a_share_of_the_gpu(monkeypatch, config, total, reserve):
    FakeGpu(monkeypatch, total=total, free=total // 2, peaks=[0])
    with_default = left(config, cuda_graphs=False)
    FakeGpu(monkeypatch, total=total, free=total // 2, peaks=[0])
    assert left(config, cuda_graphs=False, gpu_reserve_bytes=0) - with_default == reserve


def test_a_gpu_without_room_for_pages_says_what_takes_it_and_what_to_change(monkeypatch, config):
    FakeGpu(monkeypatch, total=8 * GIB, free=2 * GIB, peaks=[2 * GIB, GIB])
    with pytest.raises(
        ModelError, match=r"of 2,048 MiB free after loading: steps 2,048 MiB.*max_step_tokens \(100\)"
    ):
        left(config)


def test_a_step_that_does_not_fit_names_its_setting(monkeypatch, config):
    FakeGpu(monkeypatch, total=8 * GIB, free=2 * GIB, peaks=[])

    def full(_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(torch.cuda, "synchronize", full)
    with pytest.raises(
        ModelError, match=r"a step of 100 tokens does not fit.*max_step_tokens or max_batch_size"
    ):
        left(config)


def test_a_reserve_below_zero_is_refused():
    with pytest.raises(ValueError, match="gpu_reserve_bytes is -1"):
        EngineConfig(model="x", gpu_reserve_bytes=-1)


@pytest.mark.parametrize(("name", "index"), [("cuda", 3), ("cuda:1", 1)])
def test_a_gpu_is_known_by_its_number_even_where_none_was_given(monkeypatch, name, index):
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch._C, "_cuda_setDevice", chosen.append, raising=False)
    assert _device(name) == torch.device("cuda", index)
    assert chosen == [index]
