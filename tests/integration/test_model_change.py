"""Workers of one served name with other weights: whose tokens a job has, and who goes on with it."""

import shutil
import signal
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from headrace import Client, JobHandle, StreamReset

from ..support.waiting import wait_until
from .conftest import Uninterrupted, WorkerProcess, assert_whole

pytestmark = [pytest.mark.serial, pytest.mark.timeout(600)]

JOB = {"prompt": "A generator is", "model": "demo", "max_tokens": 150, "ignore_eos": True, "temperature": 0.0}
AT_ONCE = 4
RESTART = 'action="restart"'


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, model: Path) -> dict[str, Path]:
    """Two checkpoints of one model, the second being what little training could have made of the first."""
    folder = tmp_path_factory.mktemp("models")
    found = {name: folder / name for name in ("before", "after")}
    for path in found.values():
        shutil.copytree(model, path)
    tensors = load_file(found["after"] / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    for name, tensor in tensors.items():
        noise = torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
        tensors[name] = tensor + 0.05 * tensor.float().std().nan_to_num().to(tensor.dtype) * noise
    save_file(tensors, found["after"] / "model.safetensors", metadata={"format": "pt"})
    return found


@pytest.fixture(scope="module")
def texts(folders: dict[str, Path]) -> dict[str, list[int]]:
    """What each model alone says to the one prompt."""
    return {name: Uninterrupted(str(folder))(**JOB) for name, folder in folders.items()}


@pytest.fixture
def serve(
    redis_url: str, start_worker: Callable[..., WorkerProcess], folders: dict[str, Path]
) -> Callable[[str], WorkerProcess]:
    """Start a worker of one of the models, under the one name."""

    def start(model: str, **options: object) -> WorkerProcess:
        changes = {"model": folders[model], "served_name": "demo", "metrics_port": 0, **options}
        return start_worker(redis_url, options=changes, step_s=0.01)

    return start


def fingerprint_of(worker: WorkerProcess) -> str:
    (ready,) = worker.events("ready")
    return str(ready["fingerprint"])


def restarts_counted(worker: WorkerProcess) -> float:
    """What a worker's metrics say."""
    (served,) = worker.events("metrics_served")

    def counted() -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{served['port']}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        (line,) = (
            line for line in lines if line.startswith("headrace_jobs_model_changed_total") and RESTART in line
        )
        return float(line.rpartition(" ")[2])

    logged = sum(event["model_changed"] for event in worker.events("upkeep"))
    wait_until(lambda: counted() == logged)  # what is counted is published once a second
    return counted()


class Load:
    """Keeps a few equal jobs running, and reads the first one's stream as a careful client does."""

    def __init__(self, client: Client) -> None:
        self.jobs: list[JobHandle] = []
        self.read: list[int] = []
        self._client, self._stopping = client, threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(place,)) for place in range(AT_ONCE)]
        for thread in self._threads:
            thread.start()

    def _work(self, place: int) -> None:
        while not self._stopping.is_set():
            job = self._client.enqueue(**JOB)
            self.jobs.append(job)
            if place == 0:
                self._read(job)
            job.result(timeout_s=300)

    def _read(self, job: JobHandle) -> None:
        while True:
            self.read = []
            try:
                for chunk in job.stream():
                    self.read += chunk.token_ids
            except StreamReset:
                continue
            else:
                assert tuple(self.read) == job.result(timeout_s=10).token_ids
                return

    def has_begun_on(self, worker: WorkerProcess) -> bool:
        """Whether a worker has tokens of a job that it will not end soon."""
        ids = {event["worker"] for event in worker.events("ready")}
        found = [job.status() for job in self.jobs[-AT_ONCE:]]
        return any(status.worker in ids and 0 < status.offset < JOB["max_tokens"] // 3 for status in found)

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(300)
            assert not thread.is_alive()


def test_in_a_rolling_update_of_weights_no_text_is_of_two_models(redis, serve, texts):
    assert texts["before"] != texts["after"]
    old = [serve("before", model_grace_s=2), serve("before", model_grace_s=2)]
    load = Load(old[0].client)
    new = []
    for worker in old:
        new.append(serve("after", model_grace_s=2))
        wait_until(lambda worker=worker: load.has_begun_on(worker))
        assert worker.stop() == 0
    wait_until(lambda: any(job.status().restarts for job in load.jobs))
    load.stop()
    prints = {fingerprint_of(old[0]): texts["before"], fingerprint_of(new[0]): texts["after"]}
    results = [job.result(timeout_s=10) for job in load.jobs]
    for job, result in zip(load.jobs, results, strict=True):
        assert assert_whole(redis, job) == prints[result.fingerprint]
        assert not result.mixed
    assert {result.fingerprint for result in results} == set(prints)
    assert sum(map(restarts_counted, new)) == sum(result.restarts for result in results) > 0
    others = {event["theirs"] for worker in new for event in worker.events("another_model")}
    assert others == {fingerprint_of(old[0])}


def test_a_job_of_a_killed_worker_is_resumed_by_the_other_one_of_its_model(redis, serve, texts):
    mine, other = [serve("before", max_batch_size=8) for _ in range(2)], serve("after", max_batch_size=8)
    prints = {fingerprint_of(mine[0]): texts["before"], fingerprint_of(other): texts["after"]}
    jobs = [other.client.enqueue(**JOB) for _ in range(9)]
    wait_until(lambda: all(job.status().offset > 0 for job in jobs))
    begun = [job.status().fingerprint for job in jobs]
    mine[0].process.send_signal(signal.SIGKILL)
    for job, fingerprint in zip(jobs, begun, strict=True):
        result = job.result(timeout_s=120)
        assert (result.fingerprint, result.restarts, result.mixed) == (fingerprint, 0, False)
        assert assert_whole(redis, job) == prints[fingerprint]
