"""The operator's side of webhooks: what was sent, sending it again, and the secrets that sign."""

import contextlib
import json
import re

import pytest

from headrace import InvalidJob
from headrace.producers.operate import secrets
from headrace.schemas import keys
from headrace.schemas.ids import new_job_id
from headrace.schemas.keys import Tag
from headrace.schemas.scripts import accept_delivery, claim_deliveries, run, settle_delivery
from headrace.schemas.webhooks.delivery import DeliveryAttempt, DeliveryState, read_secrets
from headrace.schemas.webhooks.signing import check_secret

TAG = Tag("demo")


@pytest.fixture
def deliver(redis):
    """Make a delivery; with `state` it has had an attempt that ended so."""
    redis.hset(keys.models(), "demo", "{}")

    def make(
        state: DeliveryState | None = None,
        url: str = "https://u:PASSWORD@example.com/h?token=TOKEN",
        body: str = '{"private":1}',
    ) -> str:
        entry = redis.xadd(TAG.outbox, {"job": "x"}).decode()
        job_id = new_job_id("demo")
        call = accept_delivery(
            TAG,
            entry,
            job_id=job_id,
            event="job.succeeded",
            tenant="shop",
            url=url,
            body=body,
            secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            retention_s=600,
        )
        assert run(redis, call)
        if state is not None:
            (due,) = run(redis, claim_deliveries(TAG, 1, 60, "n")).due
            attempt = DeliveryAttempt(status=500, took_s=0.25, error="500 Internal Server Error")
            assert run(redis, settle_delivery(due, state, attempt, 600))
        return f"msg_{job_id.partition('.')[0]}_{entry}"

    return make


def test_list_shows_the_newest_first_and_nothing_private(cli, deliver):
    failed, pending = deliver(DeliveryState.FAILED), deliver()
    listed = json.loads(cli("webhooks", "list", "--json"))
    assert [one["id"] for one in listed] == [pending, failed]
    assert (listed[1]["status"], listed[1]["took_s"], listed[1]["attempts"]) == (500, 0.25, 1)
    assert listed[0]["url"] == "https://example.com/h"
    shown = cli("webhooks", "list") + cli("webhooks", "show", failed)
    assert not re.search(r"private|whsec|TOKEN|PASSWORD", shown)  # an id has no capitals
    assert failed in cli("webhooks", "list", "--state", "failed")
    assert pending not in cli("webhooks", "list", "--state", "failed")


def test_an_address_that_can_not_be_read_hides_no_other_delivery(cli, deliver):
    ids = [deliver(), deliver(url="https://[private"), deliver()]
    listed = json.loads(cli("webhooks", "list", "--json"))
    assert {one["id"] for one in listed} == set(ids)
    assert "private" not in str(listed)


@pytest.mark.parametrize(("field", "value"), [("url", None), ("history", "{"), ("state", b"\xff")])
def test_a_damaged_delivery_hides_no_other(cli, deliver, redis, field, value):
    damaged, whole = deliver(), deliver()
    key = TAG.delivery(damaged)
    redis.hdel(key, field) if value is None else redis.hset(key, field, value)
    assert [one["id"] for one in json.loads(cli("webhooks", "list", "--json"))] == [whole]
    assert f"no webhook delivery '{damaged}'" in cli("webhooks", "show", damaged, status=3)


def test_list_and_replay_read_no_bodies(cli, deliver, redis):
    ids = [deliver(body="x" * 2**20) for _ in range(4)]
    before = redis.info("stats")["total_net_output_bytes"]
    assert {one["id"] for one in json.loads(cli("webhooks", "list", "--json"))} == set(ids)
    assert cli("webhooks", "replay", "--state", "pending") == "4 to be sent again\n"
    assert redis.info("stats")["total_net_output_bytes"] - before < 2**20


def test_show_has_every_attempt(cli, deliver):
    assert "attempt 1  500 500 Internal Server Error after 0.25 s" in cli(
        "webhooks", "show", deliver(DeliveryState.FAILED)
    )
    assert "headrace webhooks list" in cli("webhooks", "show", "msg_none", status=3)


def test_show_says_in_words_when_it_is_tried_next_and_what_to_do(cli, deliver, redis):
    refused, waiting = deliver(DeliveryState.REFUSED), deliver()
    shown = cli("webhooks", "show", waiting)
    assert re.search(
        r"^next try +now: an attempt is in flight|^next try +\d{4}-.* \((in )?.*\)$", shown, re.MULTILINE
    )
    assert re.search(r"^created +\d{4}-\d\d-\d\d .* ago\)$", shown, re.MULTILINE)
    assert not re.search(r"\b\d{13}\b", shown)
    assert "HEADRACE_WEBHOOK_ALLOW" in cli("webhooks", "show", refused)
    pending = deliver(url="https://other.example/")
    due = next(due for due in run(redis, claim_deliveries(TAG, 10, 60, "n")).due if due.id == pending)
    assert "an attempt is in flight" in cli("webhooks", "show", pending)
    later = DeliveryAttempt(status=500, took_s=0.25, error="500")
    assert run(redis, settle_delivery(due, DeliveryState.PENDING, later, 600, delay_s=3600))
    assert re.search(r"^next try .* \(in (59 min|1 h).*\)$", cli("webhooks", "show", pending), re.MULTILINE)


def test_replay_makes_one_or_all_of_a_state_due_again(cli, deliver, redis):
    one, other = deliver(DeliveryState.FAILED), deliver(DeliveryState.FAILED)
    assert cli("webhooks", "replay", one) == "1 to be sent again\n"
    assert [due.id for due in run(redis, claim_deliveries(TAG, 10, 60, "n")).due] == [one]
    assert cli("webhooks", "replay", "--state", "failed") == "1 to be sent again\n"
    assert [due.id for due in run(redis, claim_deliveries(TAG, 10, 60, "n")).due] == [other]
    cli("webhooks", "replay", status=2)
    assert "no webhook delivery 'msg_none'" in cli("webhooks", "replay", "msg_none", status=3)


def test_one_that_is_gone_meanwhile_does_not_keep_the_others_from_being_replayed(cli, deliver, redis):
    gone, there = deliver(DeliveryState.FAILED), deliver(DeliveryState.FAILED)
    redis.hdel(TAG.delivery(gone), "endpoint")
    assert cli("webhooks", "replay", "--state", "failed") == "1 to be sent again\n"
    assert [due.id for due in run(redis, claim_deliveries(TAG, 10, 60, "n")).due] == [there]


def test_secrets_are_shown_once_and_rotate(cli, redis):
    first_id, first = cli("tenants", "secret", "add", "shop").split()
    check_secret(first)
    second_id, second = cli("tenants", "secret", "add", "shop", "--secret", "a" * 20).split()
    assert second == "a" * 20
    stored = read_secrets(redis.hgetall(keys.webhook_secrets("shop")))
    assert [s.secret.get_secret_value() for s in stored] == [second, first]
    listed = cli("tenants", "secret", "list", "shop")
    assert first_id in listed
    assert first not in listed
    assert cli("tenants", "secret", "drop", "shop", first_id) == "shop has 1 secrets left\n"
    cli("tenants", "secret", "drop", "shop", second_id)
    assert not redis.exists(keys.webhook_secrets("shop"))


def test_two_who_add_and_drop_secrets_at_once_lose_none(client):
    old = client.admin.add_secret("shop")
    operations = client._operations
    dropping, adding = secrets.drop(operations, "shop", old.id), secrets.add(operations, "shop")
    perform = client._link().perform
    begun = [(steps, perform(next(steps))) for steps in (dropping, adding)]  # both have read what there is
    for steps, reply in begun:
        with contextlib.suppress(StopIteration):
            request = steps.send(reply)
            while True:
                request = steps.send(perform(request))
    (left,) = client.admin.secrets("shop")
    assert left.id != old.id


def test_what_cant_be_a_secret_is_refused_without_being_shown(cli, client):
    for bad in ("short", "whsec_no-base64!"):
        said = cli("tenants", "secret", "add", "shop", "--secret", bad, status=2)
        assert bad not in said
        with pytest.raises(InvalidJob, match=r"webhook\.secret") as error:
            client.enqueue("x", model="demo", webhook={"url": "https://example.com", "secret": bad})
        assert bad not in str(error.value)
    assert "drop one first" in "".join(
        cli("tenants", "secret", "add", "full", status=0 if number < 4 else 2) for number in range(5)
    ).replace("\n│ ", " ")
    cli("tenants", "secret", "add", "*", status=2)
