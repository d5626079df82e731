"""Webhook deliveries in Redis: accepted once, claimed by turns, settled by whoever holds them, replayed."""

from collections import Counter
from dataclasses import dataclass

import pytest
from redis import Redis

from headrace.schemas import keys
from headrace.schemas.errors import BrokerUnavailable
from headrace.schemas.keys import Tag
from headrace.schemas.redis.connection import connect
from headrace.schemas.scripts import (
    Call,
    DueDelivery,
    accept_delivery,
    claim_deliveries,
    replay_delivery,
    run,
    settle_delivery,
)
from headrace.schemas.webhooks.delivery import PER_ENDPOINT, DeliveryAttempt, DeliveryState, endpoint_id

URL = "https://example.com/hook"
LEASE_S = 30.0
RETENTION_S = 600.0
MINUTE_MS = 60_000


@dataclass
class Deliveries:
    """The deliveries of one queue."""

    redis: Redis
    tag: Tag

    def call(self, call: Call):
        return run(self.redis, call)

    def entry(self, number: int = 0) -> str:
        """An outbox entry, as the end of a job makes it, taken up by a relay."""
        fields = {"job": f"j{number}", "event": "job.succeeded", "at_ms": 1}
        entry_id = self.redis.xadd(self.tag.outbox, fields).decode()
        if not self.redis.xinfo_groups(self.tag.outbox):
            self.redis.xgroup_create(self.tag.outbox, keys.RELAY_GROUP, "0")
        self.redis.xreadgroup(keys.RELAY_GROUP, "relay", {self.tag.outbox: ">"})
        return entry_id

    def accept_entry(self, entry_id: str, url: str = URL, body: str = "{}") -> bool:
        return self.call(
            accept_delivery(
                self.tag,
                entry_id,
                job_id="01jd0000000000000000000000.0.m",
                event="job.succeeded",
                tenant="t",
                url=url,
                body=body,
                secret="",
                retention_s=RETENTION_S,
            )
        )

    def accept(self, count: int = 1, url: str = URL) -> None:
        for number in range(count):
            assert self.accept_entry(self.entry(number), url)

    def claim(self, limit: int = 100, nonce: str = "n", **options) -> list[DueDelivery]:
        return self.call(claim_deliveries(self.tag, limit, LEASE_S, nonce, **options)).due

    def settle(self, due: DueDelivery, state: str = "delivered", delay_s: float = 0.0) -> bool:
        status = {"delivered": 200, "disabled": 410}.get(state, 503)
        attempt = DeliveryAttempt(status=status, took_s=0.1)
        return self.call(settle_delivery(due, DeliveryState(state), attempt, RETENTION_S, delay_s=delay_s))

    def fail(self, times: int, delay_s: float = 0.0) -> None:
        """So many attempts in a row, one after the other."""
        for _ in range(times):
            (due,) = self.claim(limit=1)
            assert self.settle(due, "pending", delay_s)

    def state(self, due: DueDelivery) -> str:
        return self.redis.hget(self.tag.delivery(due.id), "state").decode()

    @property
    def pause_ms(self) -> int:
        """For how long the endpoint is still left alone."""
        seconds, micros = self.redis.time()
        until = self.redis.hget(self.tag.endpoint(endpoint_id("t", URL)), "open_until_ms")
        return int(until or 0) - seconds * 1000 - micros // 1000

    def time_passes(self, ms: float) -> None:
        """All moments noted for deliveries were so much longer ago."""
        for key in self.redis.scan_iter(f"{self.tag.base}:*"):
            kind = key.decode().removeprefix(self.tag.base + ":").partition(":")[0]
            if kind in {"due", "endpoints", "waiting", "sending"}:
                for member in self.redis.zrange(key, 0, -1):
                    self.redis.zincrby(key, -ms, member)
            if kind == "endpoint" and self.redis.hexists(key, "open_until_ms"):
                self.redis.hincrby(key, "open_until_ms", round(-ms))


@pytest.fixture
def deliveries(redis: Redis) -> Deliveries:
    return Deliveries(redis, Tag("m"))


# Accepting ----------------------------------------------------------------------------------------------


def test_an_entry_becomes_one_delivery_however_often_it_is_accepted(deliveries, redis):
    entry_id = deliveries.entry()
    assert deliveries.accept_entry(entry_id, body='{"text":"é"}')
    (due,) = deliveries.claim()
    assert deliveries.settle(due)
    assert not deliveries.accept_entry(entry_id)
    assert (due.id, due.body) == (f"msg_01jd0000000000000000000000_{entry_id}", '{"text":"é"}'.encode())
    assert (redis.xlen(deliveries.tag.outbox), deliveries.claim()) == (0, [])
    assert redis.xpending(deliveries.tag.outbox, keys.RELAY_GROUP)["pending"] == 0
    assert deliveries.state(due) == "delivered"


def test_a_full_redis_leaves_the_outbox_entry(own_redis):
    with connect(own_redis.url) as redis:
        deliveries = Deliveries(redis, Tag("m"))
        kept = deliveries.entry()
        deliveries.accept()
        redis.config_set("maxmemory", 1)
        with pytest.raises(BrokerUnavailable):
            deliveries.accept_entry(kept)
        (due,) = deliveries.claim()
        assert deliveries.settle(due)
        assert [entry_id.decode() for entry_id, _ in redis.xrange(deliveries.tag.outbox)] == [kept]
        redis.config_set("maxmemory", 0)
        assert deliveries.accept_entry(kept)


def test_deliveries_past_their_retention_leave_the_list(deliveries, redis):
    deliveries.accept()
    (first,) = deliveries.claim()
    redis.zincrby(deliveries.tag.deliveries, -RETENTION_S * 1000, first.id)
    deliveries.accept()
    assert redis.zcard(deliveries.tag.deliveries) == 1


# Claiming -----------------------------------------------------------------------------------------------


def test_a_claim_takes_no_more_than_asked_for_and_eight_of_an_endpoint(deliveries):
    deliveries.accept(20)
    deliveries.accept(3, url="https://other.example/hook")
    assert [due.url for due in deliveries.claim(limit=2)] == [URL, "https://other.example/hook"]
    urls = [due.url for due in deliveries.claim()]
    assert (urls.count(URL), len(urls)) == (PER_ENDPOINT - 1, PER_ENDPOINT - 1 + 2)
    assert deliveries.claim() == []


def test_an_origin_takes_no_more_attempts_than_it_leaves_free(deliveries):
    for number in range(40):
        deliveries.accept(url=f"https://{'DEAD.example:443' if number % 2 else 'dead.example'}/{number}")
    (first,) = deliveries.claim(limit=1)
    assert len(deliveries.claim(limit=15, under_way={first.origin: 1})) == 7
    assert deliveries.claim(limit=8, under_way={first.origin: 8}) == []
    deliveries.accept(3, url="https://live.example/")
    live = deliveries.claim(limit=8, under_way={first.origin: 8})
    assert [due.url for due in live] == ["https://live.example/"] * 3


def test_many_dead_origins_leave_attempts_to_the_next(deliveries):
    origins = 30
    for number in range(20 * origins):
        deliveries.accept(url=f"https://dead-{number % origins}.example/{number}")
    hanging: list[DueDelivery] = []
    for _ in range(40):  # the first of them ends, and others take its place
        hanging = hanging[1:]
        under_way = Counter(due.origin for due in hanging)
        hanging += deliveries.claim(limit=64 - len(hanging), under_way=under_way)
    deliveries.accept(url="https://live.example/")
    under_way = Counter(due.origin for due in hanging[1:])
    claimed = deliveries.claim(limit=64 - under_way.total(), under_way=under_way)
    assert "https://live.example/" in [due.url for due in claimed]


def test_an_attempt_that_ends_makes_room_for_the_next(deliveries):
    deliveries.accept(PER_ENDPOINT + 1)
    first, *_ = deliveries.claim()
    assert deliveries.settle(first)
    (last,) = deliveries.claim()
    assert last.id != first.id


def test_two_claimers_never_get_the_same_delivery(deliveries):
    for number in range(6):
        deliveries.accept(5, url=f"https://example.com/{number}")
    taken: list[str] = []
    while found := deliveries.claim(limit=4, nonce="a") + deliveries.claim(limit=3, nonce="b"):
        taken += [due.id for due in found]
    assert len(taken) == len(set(taken)) == 30


def test_one_whose_retention_has_ended_is_dropped_and_told(deliveries, redis):
    deliveries.accept(2)
    gone, kept = redis.zrange(deliveries.tag.deliveries, 0, -1)
    redis.delete(deliveries.tag.delivery(gone.decode()))
    (due,), expired = deliveries.call(claim_deliveries(deliveries.tag, 100, LEASE_S, "n"))
    assert (due.id, expired) == (kept.decode(), [gone.decode()])
    assert deliveries.settle(due)
    assert not redis.exists(deliveries.tag.waiting(endpoint_id("t", URL)))


# Settling -----------------------------------------------------------------------------------------------


def test_what_is_not_settled_within_its_lease_is_anothers(deliveries, redis):
    deliveries.accept()
    (late,) = deliveries.claim(nonce="a")
    deliveries.time_passes(LEASE_S * 1000)
    (again,) = deliveries.claim(nonce="b")
    assert (again.id, again.attempts) == (late.id, 0)
    assert not deliveries.settle(late)
    assert deliveries.state(again) == "pending"
    assert deliveries.settle(again)
    assert not deliveries.settle(again)
    assert redis.hget(deliveries.tag.delivery(again.id), "attempts") == b"1"


def test_a_delivery_that_is_gone_is_nobodys_to_settle(deliveries, redis):
    deliveries.accept()
    (due,) = deliveries.claim()
    redis.delete(deliveries.tag.delivery(due.id))
    assert not deliveries.settle(due)
    assert not redis.exists(deliveries.tag.delivery(due.id))
    deliveries.time_passes(LEASE_S * 1000)
    assert deliveries.claim() == []


def test_a_failed_attempt_is_made_again_when_it_is_due(deliveries):
    deliveries.accept()
    deliveries.fail(1, delay_s=60)
    assert deliveries.claim() == []
    deliveries.time_passes(MINUTE_MS)
    (due,) = deliveries.claim()
    assert due.attempts == 1


def test_a_disabled_endpoint_gets_nothing_that_waits_and_nothing_new(deliveries, redis):
    deliveries.accept(PER_ENDPOINT + 3)
    gone = deliveries.claim()[0]
    assert deliveries.settle(gone, "disabled")
    deliveries.accept()
    assert deliveries.claim() == []
    states = [redis.hget(key, "state") for key in redis.scan_iter(f"{deliveries.tag.base}:delivery:*")]
    assert set(states) == {b"disabled"}


def test_a_disabled_endpoint_stays_so_while_there_is_something_for_it(deliveries, redis):
    deliveries.accept()
    (gone,) = deliveries.claim()
    assert deliveries.settle(gone, "disabled")
    endpoint = deliveries.tag.endpoint(endpoint_id("t", URL))
    redis.pexpire(endpoint, 5_000)
    deliveries.accept()
    assert redis.ttl(endpoint) > RETENTION_S - 60


def test_what_was_under_way_when_an_endpoint_was_disabled_does_not_enable_it(deliveries):
    deliveries.accept(3)
    gone, arrives, fails = deliveries.claim()
    assert deliveries.settle(gone, "disabled")
    assert deliveries.settle(arrives)
    assert deliveries.settle(fails, "pending")
    deliveries.accept()
    assert deliveries.claim() == []
    assert [deliveries.state(due) for due in (gone, arrives, fails)] == ["disabled", "delivered", "disabled"]


def test_a_refused_address_says_nothing_of_the_receiver(deliveries, redis):
    deliveries.accept(10)
    for due in deliveries.claim():
        assert deliveries.settle(due, "refused")
    assert not redis.exists(deliveries.tag.endpoint(endpoint_id("t", URL)))


# The breaker --------------------------------------------------------------------------------------------


def test_five_failures_in_a_row_leave_the_endpoint_alone_and_one_attempt_tries_it_then(deliveries):
    deliveries.accept(PER_ENDPOINT)
    deliveries.fail(4)
    assert deliveries.pause_ms < 0
    deliveries.fail(1)
    assert 29_000 < deliveries.pause_ms <= 30_000
    assert deliveries.claim() == []
    deliveries.time_passes(30_000)
    (probe,) = deliveries.claim()
    assert deliveries.claim() == []
    assert deliveries.settle(probe)
    assert len(deliveries.claim()) == PER_ENDPOINT - 1


def test_the_pause_doubles_with_each_failed_try_up_to_a_quarter_of_an_hour(deliveries):
    deliveries.accept()
    deliveries.fail(5)
    pauses = [deliveries.pause_ms]
    for _ in range(6):
        deliveries.time_passes(pauses[-1] + 1)
        deliveries.fail(1)
        pauses.append(deliveries.pause_ms)
    assert [round(pause / 1000) for pause in pauses] == [30, 60, 120, 240, 480, 900, 900]


def test_a_try_that_is_lost_is_followed_by_another(deliveries):
    deliveries.accept(3)
    deliveries.fail(5)
    deliveries.time_passes(30_000)
    (lost,) = deliveries.claim()
    deliveries.time_passes(LEASE_S * 1000)
    (probe,) = deliveries.claim()
    assert deliveries.settle(probe)
    assert lost.id in {probe.id, *(due.id for due in deliveries.claim())}


# Replaying ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["delivered", "failed", "refused", "disabled"])
def test_a_delivery_that_has_ended_is_sent_again_under_its_id(deliveries, state):
    deliveries.accept()
    (due,) = deliveries.claim()
    assert deliveries.settle(due, state)
    assert deliveries.claim() == []
    assert deliveries.call(replay_delivery(deliveries.tag, due.id))
    (again,) = deliveries.claim()
    assert (again.id, again.body, again.attempts) == (due.id, due.body, 0)


def test_a_replayed_delivery_is_kept_as_long_as_a_new_one(deliveries, redis):
    deliveries.accept()
    (due,) = deliveries.claim()
    assert deliveries.settle(due, "failed")
    redis.pexpire(deliveries.tag.delivery(due.id), 5_000)
    redis.zincrby(deliveries.tag.deliveries, 5_000 - RETENTION_S * 1000, due.id)
    assert deliveries.call(replay_delivery(deliveries.tag, due.id))
    assert redis.ttl(deliveries.tag.delivery(due.id)) > RETENTION_S - 60
    seconds, _ = redis.time()
    assert redis.zscore(deliveries.tag.deliveries, due.id) > (seconds - 60) * 1000


def test_a_replay_ends_the_pause_of_its_endpoint(deliveries):
    deliveries.accept()
    deliveries.fail(4)
    deliveries.fail(1, delay_s=3600)
    (due_id,) = (name.decode() for name in deliveries.redis.zrange(deliveries.tag.deliveries, 0, -1))
    assert deliveries.call(replay_delivery(deliveries.tag, due_id))
    assert [due.id for due in deliveries.claim()] == [due_id]


def test_there_is_nothing_to_replay_after_the_retention(deliveries):
    assert not deliveries.call(replay_delivery(deliveries.tag, "msg_nothing"))
