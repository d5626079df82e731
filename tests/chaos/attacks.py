"""What hostile tenants do, each kind a function; it runs in a process of its own, as another machine's would.

A tenant asks through the client like anybody else. What the client refuses is sent past it as well, as a
producer of another version, or of another make, would write it: the workers are not to rely on the client.
"""

import json
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from headrace import Client, HeadraceError, JobsRefused
from headrace.schemas.ids import new_job_id
from headrace.schemas.job import Job
from headrace.schemas.redis.connection import connect
from headrace.schemas.scripts import Call, enqueue, run_many
from headrace.schemas.settings.queue import QueueSettings

from .fleet import TAG
from .hostile_engine import POISON

CONTEXT_TOKENS = 2048
MALLORY = "mallory"
ALLOWED_DELAYED = 200
"""What the policy lets Mallory have waiting."""

LOOPING, SLOW = "loop for ever", "take your time"
"""Messages that the model's template goes on rendering for, or does so for a second or two."""

TEMPLATE = """{%- for message in messages %}
{%- if message['content'] == 'loop for ever' %}
{%- for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}
{%- elif message['content'] == 'take your time' %}
{%- for a in range(40) %}{% for b in range(99999) %}{% endfor %}{% endfor %}
{%- endif %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"""

_NICE = 10


@dataclass(frozen=True, slots=True)
class Site:
    """Where the tenants find things.

    Attributes:
        redis_url: the fleet's Redis.
        hanging: webhook receivers that take every request and never answer, each another origin.
        killers: how many jobs that end their engine process are sent.
        attempts: how many of them each may count.
    """

    redis_url: str
    hanging: Sequence[str]
    killers: int
    attempts: int


@dataclass(slots=True)
class Sent:
    """What came of an attack's requests.

    Attributes:
        jobs: those in the queue now.
        refused: requests that were answered with one of headrace's errors.
        problems: what may not be.
    """

    jobs: list[str] = field(default_factory=list)
    refused: int = 0
    problems: list[str] = field(default_factory=list)


class Tenant:
    """A hostile tenant; a context manager.

    Attributes:
        sent: what it has sent.
    """

    def __init__(self, site: Site, name: str = MALLORY) -> None:
        self.site, self.sent, self._name = site, Sent(), name
        self._client, self._redis = Client(site.redis_url, retention_s=600), connect(site.redis_url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._redis.close()

    def ask(self, **fields: Any) -> None:
        """Through the client, and if that refuses, past it."""
        wanted = self._job(fields)
        try:
            self.sent.jobs.append(self._client.enqueue(**wanted).id)
        except HeadraceError:
            self.sent.refused += 1
            self.write([_spec(wanted)])

    def ask_all(self, jobs: Iterable[Mapping[str, Any]]) -> None:
        """Many at once, through the client."""
        try:
            outcomes: Sequence[Any] = self._client.enqueue_many([self._job(fields) for fields in jobs])
        except JobsRefused as refused:
            outcomes = refused.outcomes
        accepted = [outcome.id for outcome in outcomes if not isinstance(outcome, HeadraceError)]
        self.sent.jobs += accepted
        self.sent.refused += len(outcomes) - len(accepted)

    def write(self, specs: Iterable[bytes], **arguments: bytes | int) -> None:
        """Past the client: whatever the spec says, with these arguments of the script."""
        calls = [_written(spec, self._name, arguments) for spec in specs]
        for outcome in run_many(self._redis, calls):
            if isinstance(outcome, HeadraceError):
                self.sent.refused += 1
            else:
                self.sent.jobs.append(outcome)

    def write_entry(self, lane: str, fields: Mapping[str, Any]) -> None:
        """An entry of a lane that no script has written, and its tenant among those with jobs."""
        self._redis.xadd(TAG.lane(lane, self._name), fields)  # type: ignore[arg-type]
        self._redis.zadd(TAG.backlog(lane), {self._name: 0})

    def cancel(self, job_ids: Iterable[str]) -> None:
        for job_id in job_ids:
            self._client.job(job_id).cancel()

    def _job(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": TAG.model, "tenant": self._name, "max_tokens": 4, **fields}


def _spec(fields: Mapping[str, Any]) -> bytes:
    return json.dumps({"v": 1, **fields}, default=str).encode(errors="surrogatepass")


_ARGUMENTS = {"spec": 1, "job_class": 2, "prompt_tokens": 4, "prompt_bytes": 5, "max_tokens": 6, "events": 16}
"""Where the script has them."""


def _written(spec: bytes, tenant: str, arguments: Mapping[str, bytes | int]) -> Call[str]:
    harmless = Job.make(model=TAG.model, prompt="x", tenant=tenant, max_tokens=4)
    call = enqueue(TAG, new_job_id(TAG.model), harmless, QueueSettings(retention_s=600))
    args = list(call.args)
    for name, value in {"prompt_bytes": len(spec), **arguments, "spec": spec}.items():
        args[_ARGUMENTS[name]] = value
    return Call(call.script, call.base, args, call.parse)


# The attacks ------------------------------------------------------------------------------------------------


def large_prompts(mallory: Tenant) -> None:
    """As large as a job may be, some in front of everybody, and some that are just too long."""
    largest = "large " * ((4 * 2**20 - 1000) // 6)
    for number in range(24):
        mallory.ask(prompt=f"{number} {largest}", job_class="interactive" if number % 2 else "batch")
    for number in range(24):
        mallory.ask(prompt_token_ids=[5] * (CONTEXT_TOKENS + number), job_class="interactive")
        mallory.ask(prompt="x y " * (CONTEXT_TOKENS // 2 + number), job_class="interactive")


def looping_templates(mallory: Tenant) -> None:
    for number in range(6):
        content = [{"role": "user", "content": LOOPING}]
        mallory.ask(messages=content, job_class="interactive" if number % 2 else "batch")


def slow_intake(mallory: Tenant) -> None:
    """What takes long to render or to tokenise, and may then be run."""
    for number in range(2):
        mallory.ask(messages=[{"role": "user", "content": SLOW}], job_class="interactive")
        mallory.ask(messages=[{"role": "user", "content": "x"}] * 20_000, job_class="interactive")
        mallory.ask(prompt="\N{GRINNING FACE}a" * (50_000 + number), job_class="interactive")
        mallory.ask(prompt="x", stop=[f"{chr(97 + n)}" * 256 for n in range(16)], job_class="interactive")


def costly_grammars(mallory: Tenant) -> None:
    """What takes long to compile, grows with every token, or allows nothing."""
    wide = {"type": "object", "properties": {f"p{number}": {"type": "integer"} for number in range(3000)}}
    deep: dict[str, Any] = {}
    for _ in range(60):
        deep = (
            {"anyOf": [{"items": deep}, {"properties": {"a": deep}}]}
            if len(str(deep)) < 50_000
            else {"a": deep}
        )
    forms: list[dict[str, Any]] = [
        *(
            {"regex": regex}
            for regex in ("(a?){500}a{500}", "(.*a.{40}|.*b.{41}|.*c.{39})", "((a{1,99}){1,99}){1,99}")
        ),
        {"regex": "(" * 5000 + "a" + ")" * 5000},
        {"grammar": 'start: s\ns: s s | "a" | "b" s "c" |'},
        {"grammar": "start: " + '"a" ' * 20_000},
        {"grammar": "start: start"},
        {"choice": ["ab" * 40 + str(number) for number in range(1024)]},
        *(
            {"json": schema}
            for schema in (wide, deep, {"$ref": "#"}, {"$ref": "http://127.0.0.1:9/"}, {"enum": []})
        ),
    ]
    for form in forms:
        for _ in range(2):
            mallory.ask(prompt="x", structured_outputs=form, max_tokens=100, job_class="interactive")


def odd_parameters(mallory: Tenant) -> None:
    """Edges of every number, one more and one less, and what is no number."""
    tiny, large = (5e-324, 1e-300, 1e-50, 1e-46, 1e-40, 1e-38), (2**31 - 1, 2**31, 2**63, 2**70)
    odd: list[dict[str, Any]] = [
        *({"top_p": value} for value in (*tiny, 1 - 2**-53, float("nan"))),
        *({"min_p": value} for value in (*tiny, 1.0, float("nan"))),
        *({"temperature": value, "top_p": 0.9} for value in (*tiny, 100.0, float("inf"))),
        *({"repetition_penalty": value, "top_p": 0.9} for value in (*tiny, 100.0)),
        *({"top_k": value} for value in large),
        *({"seed": value} for value in large),
        *({"max_tokens": value, "stop": ["e"]} for value in (2**24, *large)),
        *({"logit_bias": {token: bias}} for token in (0, 4095, 4096, 2**31 - 1) for bias in (100.0, -100.0)),
        *({"prompt_token_ids": [token], "prompt": None} for token in (4095, 4096, 2**31 - 1, 2**63)),
        *({"stop_token_ids": [token]} for token in (4096, 2**31 - 1)),
        {"logit_bias": dict.fromkeys(range(4096), -100.0), "top_p": 1e-50, "logprobs": 20},
        {"presence_penalty": 2.0, "frequency_penalty": -2.0, "repetition_penalty": 1e-40, "logprobs": 20},
        {"logprobs": 2**40},
        {"min_tokens": 2**24},
    ]
    for fields in odd:
        for temperature in (0.0, 1.0):
            wanted = {"prompt": "A list is", "temperature": temperature, **fields}
            mallory.ask(**{name: value for name, value in wanted.items() if value is not None})


def broken_records(mallory: Tenant) -> None:
    """What a producer with a defect writes."""
    good = _spec({"model": TAG.model, "prompt": "x", "tenant": MALLORY, "max_tokens": 4})
    deep = b"[" * 100_000 + b"]" * 100_000
    specs = (
        b"",
        b"\xff\xfe\x00 not UTF-8 \xc3\x28",
        good[:-10],
        b"null",
        b"[1, 2, 3]",
        deep,
        good[:-1] + b', "metadata": ' + deep + b"}",
        good[:-1] + b', "messages": [{"role": "user", "content": [' + deep + b"]}]}",
        good[:-1] + b', "prompt": "\\ud800"}',
        good[:-1] + b', "celery": "{}"}',
        good[:-1] + b', "celery": ' + json.dumps('{"headers":{"id":3},"embed":[]}').encode() + b"}",
        good[:-1] + b', "celery": ' + json.dumps(deep.decode()).encode() + b"}",
        good[:-1] + b', "top_k": 1e400}',
        good[:-1] + b', "webhook": {"url": "http://user:hunter2@127.0.0.1:9/"}}',
        good.replace(b'"v": 1', b'"v": 99'),
        good.replace(TAG.model.encode(), b"other"),
    )
    mallory.write(specs, job_class=b"interactive")
    mallory.write(specs, job_class=b"batch", events=b"job.started,job.failed,job.succeeded")
    mallory.write([good] * 4, job_class=b"interactive", prompt_tokens=2**53, max_tokens=2**53)
    for entry in (
        {"job": "nobody"},
        {"other": "x"},
        {"job": b"\xff\xfe", "prompt_tokens": "x", "prompt_bytes": -1, "max_tokens": "nan", "v": 1},
        {"job": new_job_id(TAG.model), "prompt_tokens": 0, "prompt_bytes": 1, "max_tokens": 1, "v": 1},
    ):
        mallory.write_entry("interactive", entry)


def expired_floods(mallory: Tenant) -> None:
    """Jobs that are late before anybody can look at them, of one tenant and of hundreds."""
    soon: dict[str, Any] = {"prompt": "late", "deadline_s": 0.001, "job_class": "interactive"}
    mallory.ask_all([soon] * 2000)
    mallory.ask_all({**soon, "tenant": f"mallory-{number}"} for number in range(500))


def cancelled_floods(mallory: Tenant) -> None:
    """Jobs that nobody wants any more, at the heads of hundreds of lanes."""
    before = len(mallory.sent.jobs)
    mallory.ask_all(
        {"prompt": "never mind", "tenant": f"mallory-{number % 300}", "job_class": "interactive"}
        for number in range(900)
    )
    mallory.cancel(mallory.sent.jobs[before:])


def delayed_floods(mallory: Tenant) -> None:
    """More delayed jobs than the policy lets wait; and many that are due at once."""
    far: dict[str, Any] = {"prompt": "later", "delay_s": 3600.0, "job_class": "interactive"}
    before = len(mallory.sent.jobs)
    mallory.ask_all([far] * (ALLOWED_DELAYED + 300))
    waiting = len(mallory.sent.jobs) - before
    if waiting > ALLOWED_DELAYED:
        mallory.sent.problems.append(f"{waiting} delayed jobs wait where {ALLOWED_DELAYED} may")
    mallory.cancel(mallory.sent.jobs[before:])
    soon = {**far, "delay_s": 0.001, "max_tokens": 1}
    for _ in range(5):
        mallory.ask_all([soon] * ALLOWED_DELAYED)
    mallory.ask_all({**soon, "delay_s": 0.3, "tenant": f"mallory-{number}"} for number in range(500))


def hanging_webhooks(mallory: Tenant) -> None:
    """A receiver at hundreds of origins, none of which ever answers."""
    mallory.ask_all(
        {
            "prompt": "x",
            "max_tokens": 1,
            "webhook": {"url": url, "events": ["job.started", "job.succeeded"]},
            "job_class": "interactive",
        }
        for url in mallory.site.hanging
    )


def killers(mallory: Tenant) -> None:
    """Jobs that end their engine process, several at once."""
    for _ in range(mallory.site.killers):
        mallory.ask(
            prompt_token_ids=[POISON] * 5, max_attempts=mallory.site.attempts, job_class="interactive"
        )


def gluttons(mallory: Tenant) -> None:
    """All that one may generate, and more than its share can be; each job asks for no more than it takes."""
    rng = random.Random(1)
    mallory.ask_all(
        {
            "prompt_token_ids": GLUTTON_PROMPT,
            "max_tokens": GLUTTON_TOKENS,
            "ignore_eos": True,
            "seed": rng.randrange(2**31),
            "job_class": "interactive",
        }
        for _ in range(ALLOWED_DELAYED)
    )


GLUTTON_PROMPT = [*range(100, 108)]
GLUTTON_TOKENS = 300

Attack = Callable[[Tenant], None]

ATTACKS: Mapping[str, Attack] = {
    "large prompts": large_prompts,
    "looping templates": looping_templates,
    "slow intake": slow_intake,
    "costly grammars": costly_grammars,
    "odd parameters": odd_parameters,
    "broken records": broken_records,
    "expired floods": expired_floods,
    "cancelled floods": cancelled_floods,
    "delayed floods": delayed_floods,
    "hanging webhooks": hanging_webhooks,
}
"""What the others may not feel. Killers they do, whose victims go on elsewhere; gluttons take their share."""


def give_way() -> None:
    """The process that attacks is not to take the fleet's cores."""
    os.nice(_NICE)


def attack(kind: Attack, site: Site) -> Sent:
    """Carry one out."""
    with Tenant(site) as mallory:
        try:
            kind(mallory)
        except Exception as error:  # whatever it is, no producer may get it
            mallory.sent.problems.append(f"a producer got {type(error).__name__}: {str(error)[:200]}")
        return mallory.sent


def withdraw(site: Site, job_ids: Sequence[str]) -> list[str]:
    """Cancel what is left of an attack; what went wrong."""
    problems = []
    with Tenant(site) as mallory:
        for job_id in job_ids:
            try:
                mallory.cancel([job_id])
            except Exception as error:
                problems.append(f"cancelling {job_id} raised {type(error).__name__}: {str(error)[:200]}")
    return problems


def batches(items: Sequence[str], size: int = 500) -> Iterator[Sequence[str]]:
    """A few at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))
