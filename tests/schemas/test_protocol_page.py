"""What docs/protocol.md says is what the code does."""

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from headrace.schemas import keys
from headrace.schemas.events import End, FailureCode, JobState, Output
from headrace.schemas.job import SCHEMA_VERSION, Job, JobClass, WebhookEvent
from headrace.schemas.keys import Tag
from headrace.schemas.scripts import (
    CancelStatus,
    ClaimRequest,
    ReleaseReason,
    Segment,
    UpkeepReply,
    advance,
    cancel,
    claim,
    drain,
    drop_dead,
    enqueue,
    finish,
    heartbeat,
    recover,
    release,
    requeue_dead,
    upkeep,
)
from headrace.schemas.scripts.advance import AdvanceStatus
from headrace.schemas.settings import QueueSettings

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
    groups: dict[str, str] = field(default_factory=dict)

    def look(self, redis, tag: Tag) -> None:
        for key in redis.scan_iter(count=1000):
            name = key.decode().removeprefix(tag.base + ":")
            kind = name.partition(":")[0]
            self.types[kind] = redis.type(key).decode()
            if kind == "job":
                self.record |= {name.decode() for name in redis.hgetall(key)}
            elif kind in {"dead", "outbox", "lane", "retry", "suspects"}:
                found = {name.decode() for _, fields in redis.xrange(key) for name in fields}
                getattr(self, kind if kind in {"dead", "outbox"} else "lane").update(found)
            if self.types[kind] == "stream":
                for group in redis.xinfo_groups(key):
                    self.groups[kind] = group["name"].decode()


@pytest.fixture
def seen(queue, redis) -> Seen:
    """Everything happens once, watched."""
    seen, tag = Seen(), queue.tag
    redis.hset(tag.tenants, "default", '{"max_running":100,"requests_per_minute":100}')
    queue.add(delay_s=100, idempotency_key="k")
    queue.call(heartbeat(tag, "w", {"model": "m"}))
    job = queue.start(webhook={"url": "https://example.com/hook"}, deadline_s=100, max_runtime_s=100)
    queue.advance(job, 0, 2)
    queue.cancel(job.job_id)
    seen.look(redis, tag)
    queue.finish(job, 2, 3)
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
    redis.hset(tag.tenants, "few", '{"max_running":1}')
    queue.add(tenant="few"), queue.add(tenant="few")
    queue.claim(suspect_slots=0)
    queue.add()
    seen.look(redis, tag)
    return seen


def test_the_keys_have_the_types_that_the_table_gives(seen):
    documented = {}
    for name, kind, *_ in table("key, after"):
        documented[names(name)[0].partition(":")[0]] = kind
    kinds = {name: kind.partition(",")[0].replace("sorted set", "zset") for name, kind in documented.items()}
    assert kinds.pop("chan") == "Pub/Sub channel"
    assert seen.types == kinds
    groups = {name: names(kind)[0] for name, kind in documented.items() if "group" in kind}
    assert groups.pop("outbox") == keys.RELAY_GROUP
    assert seen.groups == groups


def test_every_field_of_a_record_is_in_the_table_and_the_other_way_round(seen):
    documented = {name for cell, *_ in table("field") for name in names(cell)}
    assert seen.record == documented


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
    states = next(meaning for cell, meaning in table("field") if cell == "`state`")
    assert names(states) == [state.value for state in JobState]
    released = next(meaning for cell, meaning in table("field") if cell == "`released`")
    assert names(released) == [reason.value for reason in ReleaseReason]
    for answer in (*AdvanceStatus, *CancelStatus):
        assert re.search(rf"`{answer.value}( <\w+>)?`", PAGE), answer
    assert f"understand the job, {SCHEMA_VERSION} today" in PAGE
    assert keys.models() in {names(cell)[0] for cell, *_ in table("key |")}
    assert keys.celery_prefix() + "*" in {names(cell)[0] for cell, *_ in table("key |")}


def test_scripts_take_as_many_arguments_as_the_table_names():
    tag, settings, segment = Tag("m"), QueueSettings(), Segment("j", "1.n", 0, 0)
    calls = [
        enqueue(tag, "j", Job.make(model="m", prompt="x"), settings),
        claim(tag, ClaimRequest("w", "n", 1, 1, 1, classes=())),
        advance(tag, 1, [segment]),
        finish(
            tag,
            segment,
            End(offset=0, end=JobState.FAILED, finish_reason="error"),
            Output(finish_reason="stop"),
        ),
        release(tag, segment, ReleaseReason.DRAIN),
        cancel(tag, "j"),
        recover(tag, "w", settings, blamed=True),
        requeue_dead(tag, "1-0"),
        drop_dead(tag, "1-0"),
        upkeep(tag, settings),
        heartbeat(tag, "w", {}),
        drain(tag, "w", 1),
    ]
    documented = {
        names(script)[0]: len(names(arguments)) for script, arguments in table("script | arguments")
    }
    taken = {call.script.name: len(call.args) for call in calls}
    assert documented == taken
    described = {names(script)[0] for script, *_ in table("script | effect")}
    assert described == set(documented)
    assert len(UpkeepReply._fields) == 6


def test_the_shell_example_prints_what_the_page_shows(redis, redis_server):
    cli = shutil.which("redis-cli") or _cli_beside_the_server()
    port = redis_server.url.partition("//")[2].rpartition(":")[2].partition("/")[0]
    preamble = f'set -eu\nredis-cli() {{ "{cli}" -p {port} "$@"; }}\n'
    shell = subprocess.run(
        ["bash", "-c", preamble + code_block("bash")], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (shell.stderr, shell.stdout) == ("", code_block("text"))
    (job_id,) = re.findall(r"id=(\S+)", code_block("bash"))
    assert keys.tag_of(job_id) == Tag("demo")


def _cli_beside_the_server() -> str:
    from headrace.workers.embedded_redis.binary import find_binary

    return str(find_binary().with_name("redis-cli"))
