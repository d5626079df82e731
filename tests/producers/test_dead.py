"""Dead letters and tenants' policies, as operators see and change them."""

import json

import pytest

from headrace.producers.operate.dead import PAGE
from headrace.schemas import keys
from headrace.schemas.events import chunk_payload
from headrace.schemas.keys import Tag
from headrace.schemas.scripts import ClaimRequest, Segment, advance, claim, recover, run
from headrace.schemas.settings.queue import QueueSettings
from headrace.schemas.tenants import VERSION, TenantPolicy, copy_policies

pytestmark = pytest.mark.leaves_jobs

TAG = Tag("m")


@pytest.fixture(autouse=True)
def served(redis):
    """The model of the jobs."""
    redis.hset(keys.models(), "m", "{}")


@pytest.fixture
def dead_job(client, redis):
    """A job whose worker crashed; dead after the first attempt."""
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
    assert "no job" in cli("status", dead_job.id, status=3)
    assert not redis.exists(TAG.out(dead_job.id))


def test_an_entry_without_a_job_can_be_seen_and_dropped_but_not_queued(cli, redis):
    redis.xadd(TAG.lane("standard", "default"), {"nonsense": 1})
    redis.zadd(TAG.backlog("standard"), {"default": 0})
    run(redis, claim(TAG, ClaimRequest("worker-1", "n", 60_000, 10**6, 10)))
    (letter,) = json.loads(cli("dead", "list", "--json"))
    assert letter["cause"] == "malformed entry"
    assert "drop it" in cli("dead", "requeue", letter["entry"], status=1)
    assert "1 dropped" in cli("dead", "drop", letter["entry"], "--yes")


def test_an_entry_whose_job_is_no_text_hides_no_other_letter(cli, dead_job, redis):
    redis.xadd(TAG.lane("standard", "default"), {"job": b"\xff", "max_tokens": 1, "v": 1})
    redis.zadd(TAG.backlog("standard"), {"default": 0})
    run(redis, claim(TAG, ClaimRequest("worker-1", "n", 60_000, 10**6, 10)))
    redis.xadd(TAG.dead, {"job": "x", "cause": "crashed", "at_ms": "soon"})
    letters = json.loads(cli("dead", "list", "--json"))
    assert {letter["cause"] for letter in letters} == {"crashed", "malformed entry"}
    assert "1 dropped" in cli("dead", "drop", letters[0]["entry"], "--yes")


def test_a_letter_that_is_not_there_is_said_so(cli):
    assert "no job 'nothing'" in cli("dead", "show", "nothing", status=3)
    assert "either an ID or --all" in cli("dead", "drop", status=2)


def test_a_letter_is_shown_with_its_job_but_never_a_secret(cli, client, redis):
    secret = "whsec_" + "c2VjcmV0" * 4
    webhook = {"url": "https://backend.example/hook", "secret": secret}
    job = client.enqueue("tell me", model="m", max_attempts=1, webhook=webhook)
    (claimed,) = run(redis, claim(TAG, ClaimRequest("worker-1", "n", 60_000, 10**6, 10))).jobs
    payload = chunk_payload(2, ["so", " far"], [1, 2], None)
    run(redis, advance(TAG, 60_000, [Segment(job.id, claimed.fence, 0, 2, payload)]))
    run(redis, recover(TAG, "worker-1", QueueSettings(), blamed=True, how="killed by SIGSEGV"))
    shown = cli("dead", "show", job.id, "--json")
    letter = json.loads(shown)
    assert (letter["job"]["prompt"], letter["text"], letter["offset"]) == ("tell me", "so far", 2)
    assert letter["job"]["webhook"]["url"] == webhook["url"]
    assert secret not in shown + cli("dead", "show", job.id)


def test_all_means_all_however_many_there_are(cli, dead_job, redis):
    for _ in range(PAGE + 1):
        redis.xadd(TAG.dead, {"job": "", "cause": "malformed entry", "at_ms": 9 * 10**12, "from": "x"})
    assert len(json.loads(cli("dead", "list", "--limit", "5000", "--json"))) == PAGE + 2
    assert len(json.loads(cli("dead", "list", "--limit", "3", "--json"))) == 3
    assert "crashed" in cli("dead", "show", dead_job.id)
    assert f"{PAGE + 2} dropped" in cli("dead", "drop", "--all", "--yes")
    assert redis.xlen(TAG.dead) == 0


def test_a_letter_whose_job_has_gone_does_not_stop_the_others(cli, client, dead_job, redis):
    gone = client.enqueue("y", model="m", max_attempts=1)
    run(redis, claim(TAG, ClaimRequest("worker-1", "n", 60_000, 10**6, 10)))
    run(redis, recover(TAG, "worker-1", QueueSettings(), blamed=True, how="killed by SIGSEGV"))
    redis.delete(TAG.job(gone.id))
    said = cli("dead", "requeue", "--all", status=1)
    assert dead_job.id in said
    assert "the letter or its job no longer exists" in said
    assert dead_job.status().state == "queued"


def test_a_name_that_no_tenant_can_have_is_refused_and_breaks_nothing(cli, redis):
    cli("tenants", "set", "acme", "--weight", "2")
    for name in (VERSION, "a:b", "two words", ""):
        assert "is not a tenant's name" in cli("tenants", "set", name, "--weight", "3", status=2)
    assert "is not a tenant's name" in cli("tenants", "drop", VERSION, status=2)
    cli("tenants", "set", "acme", "--weight", "4")
    assert redis.hget(keys.tenants(), VERSION) == b"2"


def test_what_holds_for_a_tenant_is_shown_be_it_its_own_or_everybody_elses(cli):
    def weight(tenant):
        (shown,) = json.loads(cli("tenants", "show", tenant, "--json"))
        return shown["weight"]

    assert weight("acme") == 1
    cli("tenants", "set", "*", "--weight", "3")
    cli("tenants", "set", "acme", "--weight", "2")
    assert (weight("acme"), weight("other")) == (2, 3)


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
    assert "weight = 0.0: must be above 0" in cli("tenants", "set", "acme", "--weight", "0", status=2)


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
