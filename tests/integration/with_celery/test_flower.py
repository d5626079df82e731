"""What a team sees in Flower, and what it can do from there."""

import re
import urllib.request

import pytest
from tests.support.waiting import wait_until

from .conftest import Installation, hearing

pytestmark = [
    pytest.mark.serial,
    pytest.mark.xdist_group("celery"),  # they share an installation
    pytest.mark.filterwarnings("ignore:Call to deprecated setex"),  # Celery's result backend, with redis-py 8
]

LONG = {"max_tokens": 1800, "ignore_eos": True}


def listed(installation: Installation, task_id: str, state: str) -> dict:
    """The task as Flower lists it, once it is in that state."""
    return wait_until(lambda: installation.flower(f"tasks?state={state}").get(task_id), 20)


def test_workers_and_callbacks_are_online(installation):
    workers = installation.flower("workers?refresh=1&status=1")
    online = {name.partition("@")[0] for name, is_online in workers.items() if is_online}
    assert online == {"headrace", "callbacks", "team"}
    assert workers[installation.host]
    stats = installation.flower("workers")[installation.host]["stats"]
    assert stats["engines"] == 1
    assert stats["engine_0_state"] == "ready"
    assert 0 < stats["engine_0_pages_free"] <= stats["engine_0_pages_total"]


def test_a_job_is_a_task_with_its_worker_runtime_and_hidden_prompt(installation):
    job = installation.client.enqueue(prompt="my secret", model="demo", max_tokens=12, ignore_eos=True)
    job.result(timeout_s=30)
    task = listed(installation, job.id, "SUCCESS")
    assert task["name"] == "headrace.generate"
    assert task["kwargs"] == (
        "{'model': 'demo', 'prompt': <9 characters>, 'max_tokens': 12, 'ignore_eos': True}"
    )
    assert task["worker"] == installation.host
    assert task["runtime"] > 0
    assert task["result"] == "<12 tokens>"


def test_a_generation_of_the_teams_is_the_same_task_there(installation):
    result = installation.team.generate.delay("my other secret", max_tokens=12)
    result.get(timeout=30)
    task = listed(installation, result.id, "SUCCESS")
    assert task["args"] == "(<15 characters>,)"
    assert task["worker"] == installation.host


def test_a_refused_job_has_failed_and_says_why(installation):
    job = installation.client.enqueue(prompt="x" * 100_000, model="demo")
    task = listed(installation, job.id, "FAILURE")
    assert task["exception"].startswith("context_length: ")


def test_revoke_cancels_the_generation_in_its_middle(installation):
    result = installation.team.generate.delay("A list is", **LONG)
    listed(installation, result.id, "STARTED")
    (active,) = installation.team.app.control.inspect([installation.host]).active()[installation.host]
    assert active["id"] == result.id
    installation.flower(f"task/revoke/{result.id}?terminate=true", "POST")
    wait_until(lambda: result.job.status().state == "cancelled", 20)
    assert result.job.status().offset < LONG["max_tokens"]
    # Its pages were free before; word of them comes with the worker's next heartbeat.
    wait_until(lambda: (w := installation.client.workers()[0]).pages_free == w.pages_total, 20)
    assert listed(installation, result.id, "REVOKED")
    wait_until(lambda: result.state == "REVOKED", 10)


def test_revoke_reaches_a_job_that_still_waits(installation):
    result = installation.team.generate.apply_async(("later",), countdown=1000)
    installation.flower(f"task/revoke/{result.id}", "POST")
    wait_until(lambda: result.job.status().state == "cancelled", 5)
    wait_until(lambda: result.state == "REVOKED", 10)


def test_an_engines_death_is_an_event_and_its_job_goes_on(installation):
    seen: list[dict] = []
    result = installation.team.generate.delay("A class is", **{**LONG, "max_tokens": 600, "seed": 5})
    listed(installation, result.id, "STARTED")
    with hearing(installation.team.app, ("worker-engine-died", "worker-engine-ready"), seen):
        installation.kill_engine()
        wait_until(lambda: len(seen) == 2, 30)
    assert [event["type"] for event in seen] == ["worker-engine-died", "worker-engine-ready"]
    assert seen[0]["status"] == -9
    assert result.get(timeout=60)["usage"]["completion_tokens"] == 600


def test_drain_empties_the_host_and_undrain_fills_it_again(installation):
    control, host = installation.team.app.control, installation.host
    job = installation.client.enqueue(prompt="A set is", model="demo", **{**LONG, "max_tokens": 900})
    wait_until(lambda: job.status().offset > 10)
    (reply,) = control.broadcast("drain", destination=[host], reply=True, timeout=5)
    assert reply == {host: {"ok": "draining"}}
    wait_until(lambda: job.status().state == "queued", 20)
    wait_until(lambda: control.inspect([host]).stats()[host]["engine_0_state"] == "ended", 20)
    assert installation.client.workers() == []
    (reply,) = control.broadcast("undrain", destination=[host], reply=True, timeout=5)
    assert reply == {host: {"ok": "running"}}
    assert job.result(timeout_s=60).usage.completion_tokens == 900
    assert job.status().attempts == 0


def test_kv_stats_and_cancel_are_commands(installation):
    control, host = installation.team.app.control, installation.host
    job = installation.client.enqueue(prompt="A tuple is", model="demo", **LONG)
    wait_until(lambda: job.status().offset > 10)
    stats = wait_until(
        lambda: [e for e in control.inspect([host])._request("kv_stats")[host] if e["running"] == 1], 10
    )
    assert stats[0]["pages_free"] < stats[0]["pages_total"]
    (reply,) = control.broadcast(
        "cancel", arguments={"job_id": job.id}, destination=[host], reply=True, timeout=5
    )
    assert reply == {host: {"ok": "cancelling"}}
    wait_until(lambda: job.status().state == "cancelled", 5)
    (reply,) = control.broadcast(
        "drain", destination=[n for n in installation.flower("workers") if n.startswith("team@")], reply=True
    )
    assert "can't drain" in str(reply)


def test_callbacks_count_what_they_do(installation):
    installation.team.generate.delay("A list is", max_tokens=4).get(timeout=30)
    (*_, port) = re.findall(r'"port": (\d+), "event": "metrics_served"', installation.log("callbacks"))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as page:
        metrics = page.read().decode()
    (done,) = re.findall(r'headrace_outbox_entries_total\{outcome="done"\} (\S+)', metrics)
    assert float(done) >= 1
