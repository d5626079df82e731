import pytest
import torch

pytest.importorskip("triton")
from headrace.kernels.triton import tuning
from headrace.kernels.triton.tuning import Launch, launch_of

CPU = torch.device("cpu")


@pytest.fixture
def measured(monkeypatch):
    """Tables of an invented GPU."""
    tables = {"ACME 9": {("attention_decode", 128): Launch(32, 32)}}
    monkeypatch.setattr(tuning, "MEASURED", tables)
    monkeypatch.setattr(tuning, "gpu_name", lambda device: "ACME 9000 SXM")
    tuning._lookup.cache_clear()
    yield
    tuning._lookup.cache_clear()


def test_what_was_measured_goes_before_the_default(measured):
    assert launch_of("attention_decode", 128, CPU) == Launch(32, 32)


def test_the_next_larger_size_serves_and_else_the_default_does(measured):
    assert launch_of("attention_decode", 16, CPU) == Launch(32, 32)
    assert launch_of("attention_decode", 256, CPU) == tuning.DEFAULTS["attention_decode", 256]


def test_a_size_beyond_all_tables_is_refused():
    with pytest.raises(ValueError, match="attention_decode has no launch parameters for size 257"):
        launch_of("attention_decode", 257, CPU)


def test_tuning_returns_the_fastest_that_fits(monkeypatch):
    from triton.runtime.errors import OutOfResources

    times = {Launch(16, 16): 3.0, Launch(32, 32): 1.0, Launch(64, 64): 2.0}
    ran = []

    def bench(run, return_mode):
        run()
        return times[ran[-1]]

    def run(launch):
        ran.append(launch)
        if launch not in times:
            raise OutOfResources(300_000, 232_448, "shared memory")

    monkeypatch.setattr("triton.testing.do_bench", bench)
    assert tuning.tune([Launch(256, 256), *times], run) == (Launch(32, 32), 1.0)
    with pytest.raises(ValueError, match="no candidate fits"):
        tuning.tune([Launch(256, 256)], run)
