"""What docs/protocol.md says is what the code does."""

import hashlib
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from headrace import Client, StoredResponse
from headrace.schemas import ids, keys
from headrace.schemas.events import FailureCode, JobState
from headrace.schemas.job import SCHEMA_VERSION, JobClass, WebhookEvent
from headrace.schemas.keys import Tag
from headrace.schemas.redis.call import script
from headrace.schemas.scripts import (
    CancelStatus,
    ModelChange,
    ReleaseReason,
    UpkeepCounts,
    accept_delivery,
    claim_deliveries,
    drop_dead,
    enqueue,
    heartbeat,
    pause,
    settle_delivery,
    upkeep,
)
from headrace.schemas.scripts.advance import AdvanceStatus
from headrace.schemas.webhooks.delivery import (
    DeliveryAttempt,
    DeliveryState,
    TenantSecret,
    delivery_id,
    endpoint_id,
)
from headrace.schemas.wire import WireJob

pytestmark = pytest.mark.leaves_jobs

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text()


def table(heading: str) -> list[list[str]]:
    """The rows, split into cells, of the table whose head begins with `heading`."""
    rows = PAGE[PAGE.index(f"\n| {heading}") + 1 :].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def code_block(language: str) -> str:
    (block,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return block


@dataclass
class Seen:
    """What was found in Redis while everything happened: types by documented key, fields by table."""

    types: dict[str, str] = field(default_factory=dict)
    record: set[str] = field(default_factory=set)
    dead: set[str] = field(default_factory=set)
    outbox: set[str] = field(default_factory=set)
    lane: set[str] = field(default_factory=set)
    delivery: set[str] = field(default_factory=set)
    groups: dict[str, str] = field(default_factory=dict)

    def look(self, redis, tag: Tag) -> None:
        for key in redis.scan_iter(count=1000):
            name = key.decode().removeprefix(tag.base + ":")
            kind = name.partition(":")[0]
            self.types[kind] = redis.type(key).decode()
            if kind in {"job", "delivery"}:
                found = {name.decode() for name in redis.hgetall(key)}
                (self.record if kind == "job" else self.delivery).update(found)
            elif kind in {"dead", "outbox", "lane", "retry", "suspects"}:
                found = {name.decode() for _, fields in redis.xrange(key) for name in fields}
                getattr(self, kind if kind in {"dead", "outbox"} else "lane").update(found)
            if self.types[kind] == "stream":
                for group in redis.xinfo_groups(key):
                    self.groups[kind] = group["name"].decode()


@pytest.fixture
def seen(queue, redis, redis_url) -> Seen:
    """Everything happens once, watched."""
    seen, tag = Seen(), queue.tag
    redis.hset(tag.tenants, "default", '{"max_running":100,"requests_per_minute":100}')
    queue.add(delay_s=100, idempotency_key="k", metadata={"k": "v"}, n=2)
    again = ids.new_job_id("m")
    queue.call(enqueue(tag, again, WireJob.make(model="m", prompt="x"), queue.settings, retry_of="other"))
    queue.cancel(again)
    queue.call(pause(tag, tenant="nobody"))
    queue.call(heartbeat(tag, "w", {"model": "m", "capacity_tokens": 4096}))
    change_model(queue, redis, seen)
    job = queue.start(webhook={"url": "https://example.com/hook"}, deadline_s=100, max_runtime_s=100)
    queue.advance(job, 0, 2)
    queue.cancel(job.job_id)
    with Client(redis_url) as client:
        stored = StoredResponse(tenant="default", echo={}, items=[])
        client.admin.keep_response(job.job_id, stored, ttl_s=60)
        client.admin.set_route("m", {"other": 1})
        redis.delete(keys.routes())  # which belongs to no queue
        seen.look(redis, tag)
        redis.delete(tag.alias)
    queue.finish(job, 2, 3)
    deliver(queue, redis, seen)
    queue.add(), queue.add(max_attempts=1)
    job, other = queue.claim().jobs
    queue.release(job)
    redis.xadd(tag.lane("batch", "default"), {"nonsense": 1})
    redis.zadd(tag.backlog("batch"), {"default": 0})
    seen.look(redis, tag)
    queue.lapse(other.job_id)
    seen.look(redis, tag)
    queue.claim(classes=(JobClass.BATCH,))
    queue.claim()
    queue.recover("w", blamed=True)
    queue.add(job_class="interactive", tenant="ahead")
    queue.claim(suspect_slots=0)
    queue.claim(suspect_slots=0)
    queue.add()
    queue.call(heartbeat(tag, "w", {"model": "m"})), queue.add(v=SCHEMA_VERSION + 1, job_class="batch")
    queue.claim(budget=1, suspect_slots=0), queue.claim(classes=(JobClass.BATCH,))
    seen.look(redis, tag)
    redis.hset(tag.tenants, "few", '{"max_running":1}')
    queue.add(tenant="few"), queue.add(tenant="few")
    queue.claim(suspect_slots=0)
    queue.claim(worker="tries")
    queue.add(), queue.add(job_class="interactive")
    queue.claim(worker="dead", suspect_slots=0)
    queue.recover("dead", blamed=True)
    queue.add()
    ((letter, _), *_) = redis.xrange(tag.dead)
    queue.call(drop_dead(tag, letter.decode()))
    seen.look(redis, tag)
    return seen


def change_model(queue, redis, seen: Seen) -> None:
    """A job goes on with a model that is not the one which made its tokens, then begins from scratch."""
    tag, model = queue.tag, "a" * 16
    queue.add()
    for action in ("resume", "restart"):
        (job,) = queue.claim(fingerprint=model).jobs
        queue.release(job, job.offset, job.offset + 1)
        redis.zadd(tag.readers, {f"standard:{model}": 0})
        seen.look(redis, tag)
        queue.call(upkeep(tag, queue.settings, model_change=ModelChange(action)))
        seen.look(redis, tag)
    (job,) = queue.claim().jobs
    queue.finish(job)
    redis.delete(tag.job(job.job_id), tag.out(job.job_id))


def deliver(queue, redis, seen: Seen) -> None:
    """The webhook of the job that has ended, which does not arrive."""
    tag = queue.tag
    redis.xgroup_create(tag.outbox, keys.RELAY_GROUP, "0")
    ((entry_id, _),) = redis.xrange(tag.outbox)
    redis.xgroup_create(tag.left("team"), keys.RELAY_GROUP, "0", mkstream=True)
    redis.xadd(tag.left("team"), {"entry": entry_id})
    seen.look(redis, tag)
    queue.call(accept(tag, entry_id.decode()))
    (due,) = queue.call(claim_deliveries(tag, 1, 60, "n")).due
    seen.look(redis, tag)
    queue.call(settle_delivery(due, DeliveryState.PENDING, DeliveryAttempt(status=500), 60))
    seen.look(redis, tag)


def accept(tag: Tag, entry_id: str):
    url = "https://example.com/hook"
    given = {"job_id": "j", "event": "e", "tenant": "t", "url": url, "body": "{}", "secret": ""}
    return accept_delivery(tag, entry_id, **given, retention_s=60)


def test_the_keys_have_the_types_that_the_table_gives(seen):
    documented = {}
    for name, kind, *_ in table("key, after"):
        documented[names(name)[0].partition(":")[0]] = kind
    kinds = {name: kind.partition(",")[0].replace("sorted set", "zset") for name, kind in documented.items()}
    assert kinds.pop("chan") == "Pub/Sub channel"
    assert seen.types == kinds
    assert seen.groups == {name: names(kind)[0] for name, kind in documented.items() if "group" in kind}


def test_every_field_of_a_record_is_in_the_table_and_the_other_way_round(seen):
    documented = {name for cell, *_ in table("field |") for name in names(cell)}
    assert seen.record == documented


def test_every_field_of_a_delivery_is_in_the_table_and_the_other_way_round(seen):
    documented = {name for cell, *_ in table("field of a delivery") for name in names(cell)}
    assert seen.delivery == documented
    states = next(meaning for cell, meaning in table("field of a delivery") if cell == "`state`")
    assert names(states) == [state.value for state in DeliveryState]
    history = next(meaning for cell, meaning in table("field of a delivery") if "`history`" in cell)
    assert set(re.findall(r'"(\w+)"', history)) == set(DeliveryAttempt.model_fields)
    secrets = next(holds for cell, _, holds in table("key |") if keys.webhook_secrets("<tenant>") in cell)
    assert set(re.findall(r'"(\w+)"', secrets)) == set(TenantSecret.model_fields)
    assert delivery_id("ULID.0.m", "1-0") == "msg_ULID_1-0"
    digests = [
        hashlib.blake2b(name, digest_size=10).hexdigest() for name in (b"https://a.b", b"t https://a.b/c")
    ]
    assert endpoint_id("t", "https://a.b/c?d=1#e") == ".".join(digests)


def test_the_fields_of_entries_are_in_the_table(seen):
    rows = {names(stream)[0]: set(names(cell)) for stream, cell in table("stream")}
    entries = PAGE[PAGE.index("All entries of `lane`") :].partition("The group")[0]
    assert seen.lane - {"nonsense"} == set(names(entries)) - {"lane", "retry", "suspects"}
    assert seen.dead <= rows["dead"]
    assert seen.outbox <= rows["outbox"]
    assert {event.value for event in WebhookEvent} <= rows["outbox"]
    assert {"crashed", "malformed entry", "job record missing"} <= rows["dead"]


def test_states_codes_and_answers_are_those_of_the_code():
    assert {names(cell)[0] for cell, _ in table("code")} == {code.value for code in FailureCode}
    states = next(meaning for cell, meaning in table("field |") if cell == "`state`")
    assert names(states) == [state.value for state in JobState]
    released = next(meaning for cell, meaning in table("field |") if cell == "`released`")
    assert names(released) == [reason.value for reason in ReleaseReason]
    for answer in (*AdvanceStatus, *CancelStatus):
        assert re.search(rf"`{answer.value}( <\w+>)?`", PAGE), answer
    assert f"understand the job, {SCHEMA_VERSION} today" in PAGE
    assert keys.models() in {names(cell)[0] for cell, *_ in table("key |")}
    assert keys.celery_prefix() + "*" in {names(cell)[0] for cell, *_ in table("key |")}


def test_the_table_names_every_scripts_arguments_in_their_order():
    documented = {names(name)[0]: arguments for name, arguments in table("script | arguments")}
    assert set(documented) == {path.stem for path in (ROOT / "schemas" / "scripts").glob("*.lua")}
    for name, arguments in documented.items():
        named, then, _ = arguments.partition(", then")
        assert names(named) == list(script(name).args), name
        assert bool(then) == bool(script(name).rest), name
    described = {names(name)[0] for name, *_ in table("script | effect")}
    assert described == set(documented)
    assert len(UpkeepCounts._fields) == 7


def test_the_shell_example_prints_what_the_page_shows(redis, redis_server):
    cli = shutil.which("redis-cli") or _cli_beside_the_server()
    port = redis_server.url.partition("//")[2].rpartition(":")[2].partition("/")[0]
    preamble = (
        f'set -eu\nredis-cli() {{ "{cli}" -p {port} "$@"; }}\npython() {{ "{sys.executable}" "$@"; }}\n'
    )
    shell = subprocess.run(
        ["bash", "-c", preamble + code_block("bash")], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (shell.stderr, shell.stdout) == ("", code_block("text"))
    (job_id,) = re.findall(r"id=(\S+)", code_block("bash"))
    assert keys.tag_of(job_id) == Tag("demo")


def _cli_beside_the_server() -> str:
    from headrace.local.embedded_redis.binary import find_binary

    server = find_binary()
    return str(server.with_name(server.name.replace("server", "cli")))
