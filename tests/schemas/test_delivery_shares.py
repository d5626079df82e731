"""Attempts are shared out by tenant, then by origin: who hangs, wherever and however often, delays nobody."""

from collections import Counter
from dataclasses import dataclass, field

import pytest
from redis import Redis

from headrace.schemas.keys import Tag
from headrace.schemas.scripts import (
    DueDelivery,
    accept_delivery,
    claim_deliveries,
    run,
    run_many,
    settle_delivery,
)
from headrace.schemas.webhooks.delivery import DeliveryAttempt, DeliveryState, endpoint_id, origin_id

TAG = Tag("m")
AT_ONCE = 64


@dataclass
class Sender:
    """A process whose attempts hang until they are let go."""

    redis: Redis
    hanging: list[DueDelivery] = field(default_factory=list)
    accepted: int = 0

    def accept(self, *what: tuple[str, str]) -> None:
        """Deliveries by tenant and URL."""
        calls = []
        for tenant, url in what:
            self.accepted += 1
            entry = self.redis.xadd(TAG.outbox, {"job": "j"}).decode()
            fields = {"event": "e", "tenant": tenant, "url": url, "body": "{}", "secret": ""}
            job_id = f"{self.accepted:026}.0.m"
            calls.append(accept_delivery(TAG, entry, job_id=job_id, retention_s=60, **fields))
        assert all(answer is True for answer in run_many(self.redis, calls))

    def claim(self, at_once: int = AT_ONCE) -> list[DueDelivery]:
        origins = Counter(due.origin for due in self.hanging)
        both = Counter((due.tenant, due.origin) for due in self.hanging)
        free = at_once - len(self.hanging)
        found = run(self.redis, claim_deliveries(TAG, free, 600, "n", origins, both)).due if free else []
        self.hanging += found
        return found

    def claim_all(self) -> None:
        while self.claim():
            pass

    def tenants(self) -> Counter[str]:
        return Counter(due.tenant for due in self.hanging)


@pytest.fixture
def sender(redis: Redis) -> Sender:
    return Sender(redis)


def test_three_hundred_hanging_origins_of_one_tenant_delay_no_other_tenant(sender: Sender):
    sender.accept(*(("a", f"https://dead-{number}.example/") for number in range(300)))
    sender.claim_all()
    assert sender.tenants() == {"a": 48}
    sender.accept(("b", "https://live.example/"))
    assert [due.tenant for due in sender.claim()] == ["b"]


def test_hanging_tenants_come_to_equal_shares_and_leave_one_for_the_next(sender: Sender):
    sender.accept(*((f"t{n % 5}", f"https://dead-{n}.example/") for n in range(500)))
    sender.claim_all()
    for _ in range(300):  # attempts end, and others take their places
        sender.hanging.pop(0)
        sender.claim()
    shares = sender.tenants()
    assert max(shares.values()) - min(shares.values()) <= 4
    sender.accept(("next", "https://live.example/"))
    assert "next" in {due.tenant for due in sender.claim()}


def test_an_origin_that_hangs_leaves_attempts_to_its_tenants_others(sender: Sender):
    sender.accept(*(("a", f"https://dead.example/{number}") for number in range(300)))
    sender.claim_all()
    assert len(sender.hanging) == AT_ONCE / 2
    sender.accept(*(("a", f"https://dead-too.example/{number}") for number in range(300)))
    sender.claim_all()
    sender.accept(("a", "https://live.example/"))
    sender.hanging = sender.hanging[1:]
    assert "https://live.example/" in {due.url for due in sender.claim()}


def test_an_origin_that_hangs_for_all_tenants_has_half(sender: Sender):
    sender.accept(*((f"t{number}", "https://dead.example/") for number in range(300)))
    sender.claim_all()
    assert len(sender.hanging) == AT_ONCE / 2


def test_more_waiting_tenants_than_are_looked_at_hide_nobody_for_long(sender: Sender):
    sender.accept(*((f"t{number}", "https://dead.example/") for number in range(2_500)))
    sender.claim_all()
    sender.accept(("next", "https://live.example/"))
    found = [due.tenant for _ in range(6) for due in sender.claim()]
    assert found == ["next"]


def test_what_an_older_version_has_planned_is_sent(sender: Sender, redis: Redis):
    urls = [f"https://example-{number}.example/" for number in range(20)]
    sender.accept(*((f"t{number % 3}", url) for number, url in enumerate(urls)))
    for number, url in enumerate(urls):  # by origin alone, as it was
        tenant, origin = f"t{number % 3}", origin_id(url)
        redis.delete(TAG.endpoints(tenant, origin), TAG.due(tenant), TAG.due())
        redis.zadd(f"{TAG.base}:due", {origin: 1})
        redis.zadd(f"{TAG.base}:endpoints:{origin}", {endpoint_id(tenant, url): 1})
    found = [due.url for _ in range(20) for due in sender.claim()]
    assert sorted(found) == sorted(urls)
    assert not redis.exists(f"{TAG.base}:due")
    assert not [key for key in redis.scan_iter(f"{TAG.base}:endpoints:*") if key.count(b":") == 4]


def test_an_older_versions_plan_for_what_is_gone_is_dropped(sender: Sender, redis: Redis):
    redis.zadd(f"{TAG.base}:due", {"0a": 1, "0b": 1})
    redis.zadd(f"{TAG.base}:endpoints:0a", {"0a.1": 1, "0a.2": 1})
    redis.zadd(TAG.waiting("0a.2"), {"gone": 1})
    for _ in range(3):
        assert sender.claim() == []
    assert not redis.exists(f"{TAG.base}:due", TAG.waiting("0a.2"))


def commands(redis: Redis, sender: Sender) -> int:
    """What one claim makes Redis do."""
    redis.config_resetstat()
    sender.claim()
    return sum(found["calls"] for found in redis.info("commandstats").values())


@pytest.mark.parametrize("what", ["origins of one tenant", "tenants", "older origins"])
def test_a_claim_costs_the_same_however_much_waits(sender: Sender, redis: Redis, what: str):
    cost = {}
    for number in (2_000, 20_000):
        redis.flushall()
        sender.hanging.clear()
        many = {f"{n:020x}": n for n in range(number)}
        if what == "tenants":
            redis.zadd(TAG.due(), many)
            for tenant in many:
                redis.zadd(TAG.due(tenant), {"0a": 1})
        elif what == "older origins":
            redis.zadd(f"{TAG.base}:due", many)
        else:
            redis.zadd(TAG.due(), {"t": 1})
            redis.zadd(TAG.due("t"), many)
            for origin in many:
                redis.zadd(TAG.endpoints("t", origin), {f"{origin}.a": 1})
        cost[number] = commands(redis, sender)
    assert cost[20_000] <= cost[2_000] * 1.1 < 12_000
    redis.flushall()


@pytest.mark.parametrize(
    "field", ["url", "tenant", "body", "secret", "attempts", "epoch", "history", "endpoint"]
)
@pytest.mark.parametrize("value", [None, "", "x", b"\xff", "9" * 30, "[" * 5000, "{}"])
def test_a_delivery_that_was_damaged_keeps_no_other_from_being_sent(sender: Sender, redis, field, value):
    sender.accept(("a", "https://one.example/"), ("b", "https://two.example/"))
    damaged, _ = sorted(redis.scan_iter(f"{TAG.base}:delivery:*"))
    if value is None:
        redis.hdel(damaged, field)
    else:
        redis.hset(damaged, field, value)
    for due in sender.claim():
        run(redis, settle_delivery(due, DeliveryState.DELIVERED, DeliveryAttempt(status=200), 60))
    whole = next(key for key in redis.scan_iter(f"{TAG.base}:delivery:*") if key != damaged)
    assert redis.hget(whole, "state") == b"delivered"


@pytest.mark.parametrize("field", ["failures", "open_until_ms"])
def test_an_endpoint_whose_record_was_damaged_is_sent_to_all_the_same(sender: Sender, redis, field):
    sender.accept(("a", "https://one.example/"))
    endpoint = TAG.endpoint(endpoint_id("a", "https://one.example/"))
    redis.hset(endpoint, field, "x")
    redis.expire(endpoint, 60)
    (due,) = sender.claim()
    run(redis, settle_delivery(due, DeliveryState.PENDING, DeliveryAttempt(status=500), 60, delay_s=5))
    assert redis.hget(endpoint, "failures") == b"1"


def test_a_delivery_that_is_no_record_is_dropped(sender: Sender, redis):
    sender.accept(("a", "https://one.example/"))
    (damaged,) = redis.scan_iter(f"{TAG.base}:delivery:*")
    redis.delete(damaged)
    redis.set(damaged, "x", ex=60)
    assert sender.claim() == []
    assert not redis.exists(TAG.due())
