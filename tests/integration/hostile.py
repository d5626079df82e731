"""Hostile records and lines, by a seed: what anybody who reaches Redis or writes a file may come up with."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headrace.schemas.celery_task import read_headers, sign_part, task_job_id
from headrace.schemas.ids import new_job_id
from headrace.schemas.keys import Tag
from headrace.schemas.scripts import Call, enqueue
from headrace.schemas.settings.queue import QueueSettings
from headrace.schemas.wire import WireJob

TAG = Tag("demo")
KEY = b"a key of the tests"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
FOREIGN = "payments.refund"
FOLLOWER = "tests.follows"

RECORD = (
    *("spec", "state", "class", "tenant", "v", "prompt_tokens", "prompt_bytes", "max_tokens", "max_attempts"),
    *(
        "retention_ms",
        "events",
        "stream",
        "entry",
        "epoch",
        "fence",
        "worker",
        "attempts",
        "suspect",
        "history",
    ),
    *("released", "offset", "cancel", "max_runtime_ms", "deadline_ms", "enqueued_ms", "started_ms"),
    *("first_token_ms", "finished_ms", "result", "error", "effects", "expires_ms", "unheard_of"),
)
SPEC = (*WireJob.model_fields, "unheard_of", "cls", "self")

Command = tuple[Any, ...]


@dataclass(frozen=True)
class Case:
    """A job, and what is done to its record before anybody can claim it."""

    job_id: str
    tenant: str
    call: Call[str]
    changes: Sequence[Command]


class Fuzzer:
    """Makes cases; the same ones for a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._made = 0

    def case(self) -> Case:
        """The next one."""
        self._made += 1
        tenant, job_id = f"h{self._made}", new_job_id("demo")
        fields, celery = self._asked(), self.random.random() < 0.4
        job = WireJob.make(**{"model": "demo", "max_tokens": 2, "tenant": tenant, **fields})
        if celery:
            part = self._part(f"task-{self._made}-{self.random.random()}")
            job_id = task_job_id(read_headers(part), "demo", 1)
            job = WireJob.of(job.model_copy(update={"celery": sign_part(part, job_id, KEY)}))
        call = enqueue(TAG, job_id, job, QueueSettings(retention_s=600))
        return Case(job_id, tenant, call, self._changes(job_id, job.to_wire()))

    def line(self) -> bytes:
        """A line of a batch file."""
        fields: Any = {
            "prompt": "x",
            "max_tokens": 1,
            "webhook": {"url": "https://x.example", "secret": SECRET},
        }
        for _ in range(self.random.randint(1, 3)):
            fields = self._changed(fields, (*SPEC, "custom_id", "url", "body"))
        if self.random.random() < 0.3:
            fields = {"url": self._one("/v1/completions", "/v1/chat/completions"), "body": fields}
        return self._damaged(_json(fields)).replace(b"\n", b" ").replace(b"\r", b" ")

    # Jobs --------------------------------------------------------------------------------------------------

    def _asked(self) -> dict[str, Any]:
        webhook = {
            "url": self._one(
                f"https://x.example/?token={SECRET}", f"https://10.0.0.1/{SECRET}", "http://[::1]/"
            ),
            "secret": SECRET,
            "events": ["job.started", "job.succeeded", "job.failed"],
        }
        return self._one(
            {"prompt": "A list is"},
            {"prompt": "A set is", "webhook": webhook},
            {"prompt_token_ids": [5, 6, 7], "webhook": webhook, "metadata": {"order": "1"}},
            {"messages": [{"role": "user", "content": "hi"}], "tools": [{"type": "function", "name": "f"}]},
        )

    def _part(self, task_id: str) -> str:
        follower = {"task": FOLLOWER, "args": [], "kwargs": {}, "options": {}, "immutable": True}
        embed = {"callbacks": [follower], "errbacks": None, "chain": None, "chord": None}
        headers = {"id": task_id, "task": "headrace.generate", "root_id": task_id, "argsrepr": "()"}
        return json.dumps({"headers": headers, "embed": embed, "properties": {}, "app": "headrace"})

    # Changes -----------------------------------------------------------------------------------------------

    def _changes(self, job_id: str, spec: str) -> Sequence[Command]:
        key = TAG.job(job_id)
        match self.random.randrange(10):
            case 0 | 1 | 2:
                return [("HSET", key, self._one(*RECORD), self._bytes())]
            case 3:
                return [("HDEL", key, self._one(*RECORD))]
            case 4:
                return self._one(
                    [("DEL", key)],
                    [("DEL", key), ("SET", key, self._bytes(), "EX", 600)],
                    [("DEL", TAG.out(job_id)), ("SET", TAG.out(job_id), self._bytes(), "EX", 600)],
                    [("HSET", key, *(part for name in RECORD for part in (name, self._bytes())))],
                )
            case 5:
                return [("HSET", key, "spec", self._damaged(spec.encode()))]
            case 6 | 7:
                return [("HSET", key, "spec", self._damaged_task(json.loads(spec)))]
        return [("HSET", key, "spec", _json(self._changed(json.loads(spec), SPEC)))]

    def _damaged_task(self, spec: dict[str, Any]) -> bytes:
        """Another message of a task, of this job or of none."""
        foreign = {"task": FOREIGN, "args": [SECRET], "kwargs": {}, "options": {"queue": "payments"}}
        part = json.loads(spec.get("celery") or self._part("somebody's"))
        place = self._one(
            "callbacks", "chain", "chord", "errbacks", "headers", "properties", "signature", "junk"
        )
        if place in ("callbacks", "chain", "errbacks"):
            part["embed"][place] = [foreign]
        elif place == "chord":
            part["embed"][place] = foreign
        elif place == "signature":
            part.pop("signature", None)
            part["embed"]["callbacks"] = [foreign]
        else:
            part = self._changed(part, ("headers", "embed", "properties", "app", "signature"))
            if isinstance(part.get("embed"), dict):
                part["embed"] = self._changed(part["embed"], ("callbacks", "errbacks", "chain", "chord"))
        return _json(spec | {"celery": _json(part).decode(errors="replace")})

    def _changed(self, fields: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
        name, found = self._one(*names), dict(fields)
        if self.random.random() < 0.15:
            found.pop(name, None)
        else:
            found[name] = self._value()
        return found

    def _damaged(self, text: bytes) -> bytes:
        """The text, with bytes changed, cut off, doubled or replaced; or as it is."""
        match self.random.randrange(8):
            case 0:
                at = self.random.randrange(len(text))
                return text[:at] + self.random.randbytes(2) + text[at + 1 :]
            case 1:
                return text[: self.random.randrange(len(text))]
            case 2:
                return text + text
            case 3:
                return self._bytes()
            case 4:
                return text[:-1] + b',"prompt":"again","prompt":"once more"}'
        return text

    def _value(self) -> Any:
        """Something that JSON can say."""
        return self._one(
            *(None, True, 0, -1, 1, 2**31, 2**63, 2**64, -(10**30), 10**400, 1e-320, 1e-50, 1e308, 0.5),
            *("", "x", "\0", "\u202e", "ü" * 500, "x" * 70_000, SECRET, f"https://u:{SECRET}@h/?t={SECRET}"),
            *([], {}, [[]], [SECRET], {"secret": SECRET}, {SECRET: 1}, ["x"] * 300, [1] * 3000),
            *(_Raw(b'"\\ud800"'), _Raw(b"NaN"), _Raw(b"-Infinity"), _Raw(b"1e999"), _Raw(b"9" * 5000)),
            *(_Raw(b"[" * depth + b"]" * depth) for depth in (70, 210, 1000)),
            *(_Raw(b'{"a":' * depth + b"1" + b"}" * depth) for depth in (70, 260, 100_000)),
        )

    def _bytes(self) -> bytes:
        """Something that a field of Redis can hold."""
        if self.random.random() < 0.4:
            return _json(self._value())
        return self._one(
            *(b"", b"0", b"-1", b"1", b"1.5", b"nan", b"inf", b"-inf", b"1e308", b"0x10", b" 7", b"9" * 400),
            *(b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"queued", b"running", b"succeeded", b"delayed", b"batch"),
            *(SECRET.encode(), b"[" * 50_000, b"x" * 300_000),
            self.random.randbytes(self.random.choice((1, 10, 1000))),
        )

    def _one(self, *choices: Any) -> Any:
        return self.random.choice(choices)


class _Raw(bytes):
    """JSON that Python's own writer would not write, as it is."""


def _json(value: Any) -> bytes:
    if isinstance(value, _Raw):
        return bytes(value)
    if isinstance(value, dict):
        return (
            b"{"
            + b",".join(json.dumps(name).encode() + b":" + _json(item) for name, item in value.items())
            + b"}"
        )
    if isinstance(value, list):
        return b"[" + b",".join(map(_json, value)) + b"]"
    return json.dumps(value).encode()
