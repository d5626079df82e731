"""Dead letters and tenants' policies, as operators see and change them."""

import json
import subprocess
import sys

import pytest

from headrace.schemas import keys
from headrace.schemas.keys import Tag
from headrace.schemas.scripts import ClaimRequest, claim, recover, run
from headrace.schemas.settings import QueueSettings
from headrace.schemas.tenants import VERSION, TenantPolicy, copy_policies

pytestmark = pytest.mark.leaves_jobs

TAG = Tag("m")


@pytest.fixture
def cli(redis_url, redis):
    """Run the command line on the test's Redis; its output."""
    redis.hset(keys.models(), "m", "{}")

    def run_cli(*arguments: str, status: int = 0) -> str:
        command = [sys.executable, "-m", "headrace.cli", *arguments, "--redis", redis_url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    return run_cli


@pytest.fixture
def dead_job(client, redis):
    """A job whose worker crashed; dead after the first attempt."""
    redis.hset(keys.models(), "m", "{}")
    job = client.enqueue("x", model="m", max_attempts=1)
    run(redis, claim(TAG, ClaimRequest("worker-1", "n", 60_000, 10**6, 10)))
    run(redis, recover(TAG, "worker-1", QueueSettings(), blamed=True, how="killed by SIGSEGV"))
    assert job.status().state == "failed"
    return job


def test_a_dead_letter_is_listed_and_shown_with_its_history(cli, dead_job):
    (letter,) = json.loads(cli("dead", "list", "--json"))
    assert (letter["job_id"], letter["cause"], letter["attempts"]) == (dead_job.id, "crashed", 1)
    shown = cli("dead", "show", dead_job.id)
    assert "killed by SIGSEGV" in shown
    assert "worker-1" in shown
    assert json.loads(cli("dead", "list", "--model", "other", "--json")) == []


def test_a_dead_letter_is_queued_again(cli, dead_job):
    assert cli("dead", "requeue", dead_job.id).strip() == dead_job.id
    assert (dead_job.status().state, dead_job.status().attempts) == ("queued", 0)
    assert json.loads(cli("dead", "list", "--json")) == []


def test_a_dead_letter_is_dropped_with_its_job(cli, dead_job, redis):
    assert "1 dropped" in cli("dead", "drop", "--all", "--yes")
    assert "no job" in cli("status", dead_job.id, status=1)
    assert not redis.exists(TAG.out(dead_job.id))


def test_an_entry_without_a_job_can_be_seen_and_dropped_but_not_queued(cli, redis):
    redis.xadd(TAG.lane("standard", "default"), {"nonsense": 1})
    redis.zadd(TAG.backlog("standard"), {"default": 0})
    run(redis, claim(TAG, ClaimRequest("worker-1", "n", 60_000, 10**6, 10)))
    (letter,) = json.loads(cli("dead", "list", "--json"))
    assert letter["cause"] == "malformed entry"
    assert "drop it" in cli("dead", "requeue", letter["entry"])
    assert "1 dropped" in cli("dead", "drop", letter["entry"], "--yes")


def test_a_letter_that_is_not_there_is_said_so(cli):
    assert "no job 'nothing'" in cli("dead", "show", "nothing", status=1)
    assert "either an ID or --all" in cli("dead", "drop", status=2)


def test_a_policy_is_set_listed_and_dropped_and_holds_at_once(cli, redis):
    assert cli("tenants", "set", "acme", "--weight", "2", "--max-running", "3").startswith("acme {")
    cli("tenants", "set", "*", "--requests-per-minute", "60")
    listed = {policy["tenant"]: policy for policy in json.loads(cli("tenants", "list", "--json"))}
    assert (listed["acme"]["weight"], listed["acme"]["max_running"]) == (2.0, 3)
    assert listed["*"]["requests_per_minute"] == 60
    assert json.loads(redis.hget(TAG.tenants, "acme")) == {"weight": 2.0, "max_running": 3}
    assert redis.hget(TAG.tenants, VERSION) == redis.hget(keys.tenants(), VERSION) == b"2"
    cli("tenants", "drop", "acme")
    assert not redis.hexists(TAG.tenants, "acme")


def test_a_wrong_policy_names_the_field(cli):
    assert "weight" in cli("tenants", "set", "acme", "--weight", "0", status=2)


def test_workers_copy_the_policies_once_for_each_change(redis, redis_url):
    redis.hset(keys.tenants(), mapping={"a": '{"max_running":5}', "bad": "nonsense", VERSION: 7})
    tags = [Tag("m", partition) for partition in range(2)]
    assert copy_policies(redis, tags, partitions=2) == 2
    assert json.loads(redis.hget(tags[1].tenants, "a")) == {"max_running": 3}
    assert not redis.hexists(tags[0].tenants, "bad")
    assert copy_policies(redis, tags, partitions=2) == 0
    redis.delete(keys.tenants())
    assert copy_policies(redis, tags, partitions=2) == 2
    assert not redis.exists(tags[0].tenants)


def test_a_policy_is_shared_among_partitions_so_that_the_whole_is_as_set():
    policy = TenantPolicy(weight=2, max_running=5, requests_per_minute=60).shared_among(4)
    assert (policy.weight, policy.max_running, policy.requests_per_minute) == (2, 2, 15)
