import pytest

from headrace.workers.host.shares import cores_each, engine_environment, gpu_of, gpus, gpus_of_server
from headrace.workers.supervision.pipe import GPU_VARIABLE


def test_every_engine_process_gets_at_least_one_core() -> None:
    assert cores_each(1) >= 1
    assert cores_each(10_000) == 1


def test_engine_processes_take_the_gpus_in_turn() -> None:
    assert [gpu_of("auto", index, ["0", "1"]) for index in range(3)] == ["0", "1", "0"]
    assert [gpu_of("cuda:1", index, ["0", "1"]) for index in range(2)] == ["1", "0"]


def test_no_gpu_is_named_where_none_is_used() -> None:
    assert gpu_of("cpu", 0, ["0"]) is None
    assert gpu_of("auto", 0, []) is None


def test_gpus_that_the_environment_names_are_the_only_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GPU_VARIABLE, "GPU-a,GPU-b")
    assert gpus() == ["GPU-a", "GPU-b"]
    assert engine_environment(3, gpu_of("auto", 1, gpus()))[GPU_VARIABLE] == "GPU-b"
    monkeypatch.setenv(GPU_VARIABLE, "")
    assert gpus() == []


def test_threads_of_a_team_sleep_when_they_wait_long_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert engine_environment(2) == {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "20000"}
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert engine_environment(2) == {"OMP_NUM_THREADS": "2"}


def test_a_server_sees_an_equal_share_of_the_gpus():
    assert gpus_of_server(0, 1, ["0", "1", "2", "3"]) == "0,1,2,3"
    assert [gpus_of_server(index, 2, ["0", "1", "2", "3"]) for index in range(2)] == ["0,1", "2,3"]
    assert [gpus_of_server(index, 2, ["0"]) for index in range(2)] == ["0", "0"]
    assert gpus_of_server(0, 1, []) is None
