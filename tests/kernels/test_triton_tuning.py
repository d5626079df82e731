import pytest
import torch

pytest.importorskip("triton")
from headrace.kernels.triton import tuning
from headrace.kernels.triton.tuning import LaunchConfig, launch_of

CPU = torch.device("cpu")


@pytest.fixture
def measured(monkeypatch):
    """Tables of an invented GPU."""
    tables = {"ACME 9": {("attention_decode", 128): LaunchConfig(32, 32)}}
    monkeypatch.setattr(tuning, "MEASURED", tables)
    monkeypatch.setattr(tuning, "gpu_name", lambda device: "ACME 9000 SXM")
    tuning._lookup.cache_clear()
    yield
    tuning._lookup.cache_clear()


def test_what_was_measured_goes_before_the_default(measured):
    assert launch_of("attention_decode", 128, CPU) == LaunchConfig(32, 32)


def test_the_next_larger_size_serves_and_else_the_default_does(measured):
    assert launch_of("attention_decode", 16, CPU) == LaunchConfig(32, 32)
    assert launch_of("attention_decode", 256, CPU) == tuning.DEFAULTS["attention_decode", 256]


def test_a_size_beyond_all_tables_is_refused():
    with pytest.raises(ValueError, match="attention_decode has no launch parameters for size 257"):
        launch_of("attention_decode", 257, CPU)


def test_tuning_returns_the_fastest_that_fits(monkeypatch):
    from triton.runtime.errors import OutOfResources

    times = {LaunchConfig(16, 16): 3.0, LaunchConfig(32, 32): 1.0, LaunchConfig(64, 64): 2.0}
    ran = []

    def bench(run, return_mode):
        run()
        return times[ran[-1]]

    def run(launch):
        ran.append(launch)
        if launch not in times:
            raise OutOfResources(300_000, 232_448, "shared memory")

    monkeypatch.setattr("triton.testing.do_bench", bench)
    assert tuning.tune([LaunchConfig(256, 256), *times], run) == (LaunchConfig(32, 32), 1.0)
    with pytest.raises(ValueError, match="no candidate fits"):
        tuning.tune([LaunchConfig(256, 256)], run)


def test_what_tuning_prints_is_a_table_with_every_entry_of_the_defaults(monkeypatch, capsys):
    """Each operation runs with a candidate of its own; the times are made up."""
    from benchmarks import tune

    def first_other(candidates, run):
        *_, last = candidates
        run(last)
        return last, 1.0

    monkeypatch.setattr(tuning, "tune", first_other)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tune.main(tune.Sizes(3, 40, 20, 2, 1, 64, 32, 4, 16), device, [])
    (tables,) = eval("[{" + capsys.readouterr().out + "}]", {"LaunchConfig": LaunchConfig})
    (table,) = tables.values()
    assert table.keys() == tuning.DEFAULTS.keys()
    assert table["attention_decode", 128] == LaunchConfig(16, 128, 8, 4)
