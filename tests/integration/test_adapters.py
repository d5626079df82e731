"""LoRA adapters on a real worker: each job goes on under its own, whatever happens to worker and folder."""

import shutil
from pathlib import Path

import httpx
import pytest

from headrace import JobFailed, UnknownModel

from ..support.gateways import gateway
from ..support.lora import save_adapter
from ..support.waiting import wait_until
from .conftest import Uninterrupted, assert_whole, leaked_keys

pytestmark = [pytest.mark.serial, pytest.mark.timeout(400)]

FIELDS = {"prompt": "A generator is", "max_tokens": 150, "ignore_eos": True, "seed": 5}


@pytest.fixture(scope="module")
def folders(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = tmp_path_factory.mktemp("adapters")
    return {name: save_adapter(made / name, model, seed=seed) for seed, name in enumerate(("one", "two"))}


def test_killed_and_replaced_every_job_goes_on_under_its_own_adapter(
    redis_url, redis, start_worker, expected_tokens, model, folders
):
    worker = start_worker(redis_url, engines=2, step_s=0.02, options={"max_adapters": 2})
    client = worker.client
    for name, folder in folders.items():
        client.admin.load_adapter(name, str(folder))
    jobs = {name: client.enqueue(**FIELDS, model=name) for name in ("one", "two", "demo")}
    wait_until(lambda: all(job.status().offset >= 20 for job in jobs.values()))
    client.admin.load_adapter("one", str(folders["two"]))
    client.admin.drop_adapter("two")
    killed = {job.status().worker for job in jobs.values()}
    assert all(worker.kill_engine(each) for each in killed)
    jobs["replaced"] = client.enqueue(**FIELDS, model="one")
    with pytest.raises(UnknownModel):
        client.enqueue(**FIELDS, model="two")
    for job in jobs.values():
        job.result(timeout_s=120)
    tokens = {name: assert_whole(redis, job) for name, job in jobs.items()}
    fields = {**FIELDS, "model": "demo"}
    under = {name: Uninterrupted(str(model), folder)(**fields) for name, folder in folders.items()}
    assert tokens == {**under, "demo": expected_tokens(**fields), "replaced": under["two"]}
    assert len({tuple(each) for each in tokens.values()}) == 3
    client.admin.drop_adapter("one")
    assert leaked_keys(redis) == []


def test_an_adapter_that_can_not_be_loaded_fails_its_jobs_alone(
    redis_url, start_worker, model, folders, tmp_path
):
    folder = tmp_path / "mine"
    shutil.copytree(folders["one"], folder)
    worker = start_worker(redis_url, options={"max_adapters": 1})
    client = worker.client
    client.admin.load_adapter("mine", str(folder))
    save_adapter(folder, model, seed=9)
    fields = {**FIELDS, "max_tokens": 3}
    job, base = client.enqueue(**fields, model="mine"), client.enqueue(**fields, model="demo")
    with pytest.raises(JobFailed, match=rf"adapter 'mine' can't be loaded: the content of {folder} has the"):
        job.result(timeout_s=60)
    assert base.result(timeout_s=60).token_ids
    shutil.rmtree(folder)
    with pytest.raises(JobFailed, match=rf"adapter 'mine' can't be loaded: there is no folder '{folder}'"):
        client.enqueue(**fields, model="mine").result(timeout_s=60)
    client.admin.load_adapter("mine", str(folders["two"]))  # the way out
    made = client.enqueue(**fields, model="mine").result(timeout_s=60)
    with gateway(redis_url) as running:
        answer = httpx.post(f"{running.base_url}/completions", json={**fields, "model": "mine"}, timeout=60)
    assert answer.json()["choices"][0]["text"] == made.text != base.result().text
    assert (answer.json()["model"], answer.headers["x-headrace-model"]) == ("demo", "mine")
    client.admin.drop_adapter("mine")
