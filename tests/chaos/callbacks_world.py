"""What is around `headrace callbacks`: producers, an engine, an ordinary Celery worker, a receiver.

They are threads of the test's own process, which is never killed; the engine claims and finishes jobs by the
protocol's scripts. Each kind of work is made by its name, with a number that nothing else has.
"""

import json
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from celery import Celery, chain, chord, shared_task
from redis import Redis

from headrace import Client, Webhook
from headrace.producers.celery.task import generate
from headrace.schemas.keys import Tag
from headrace.schemas.scripts import ClaimRequest, claim, run

from ..support.ended import end_claimed

TAG = Tag("demo")
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
EVENTS = ("job.started", "job.succeeded")

_runs: list[tuple[str, str]] = []
"""Which ordinary tasks have run, as `<name> <argument>`, and with which id."""


def _note(task: Any, given: str) -> str:
    _runs.append((f"{task.name} {given}", task.request.id))
    return f"{task.name} {given}"


@shared_task(name="next", bind=True)
def next_task(self: Any, given: Any) -> str:
    return _note(self, given["text"])


@shared_task(name="body", bind=True)
def body_task(self: Any, given: Sequence[Any]) -> str:
    return _note(self, "|".join(part["text"] for part in given))


@shared_task(name="errback", bind=True)
def errback_task(self: Any, failed_id: str) -> str:
    return _note(self, failed_id)


@dataclass(frozen=True, slots=True)
class Made:
    """One piece of work, and what is to come of it.

    Attributes:
        result: Celery's, to be had from the last task; None when it is no task.
        expected: what it gives; an exception's name when it fails.
        follows: the ordinary tasks that run after it, as in `World.runs`.
        generated: the prompts of its generations.
        told: the webhooks: job and event.
    """

    kind: str
    result: Any
    expected: str
    follows: tuple[str, ...] = ()
    generated: tuple[str, ...] = ()
    told: frozenset[tuple[str, str]] = frozenset()


def _told(job_id: str) -> frozenset[tuple[str, str]]:
    return frozenset((job_id, event) for event in EVENTS)


def answer(prompt: str) -> str:
    """What the engine says to it."""
    return f"answer to {prompt}"


@dataclass
class World:
    """All of it.

    Attributes:
        answered: how often the engine has answered a prompt.
        runs: the ordinary tasks that have run, and with which id.
    """

    redis: Redis
    client: Client
    app: Celery
    url: str
    made: list[Made] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    runs: list[tuple[str, str]] = field(default_factory=lambda: _runs)

    def __post_init__(self) -> None:
        _runs.clear()

    # Producers: a method each kind of work -----------------------------------------------------------------

    def hook(self, number: int) -> Made:
        prompt = f"hook:{number}"
        job = self.client.enqueue(prompt=prompt, model="demo", webhook=self._webhook(number))
        return Made("hook", None, "", generated=(prompt,), told=_told(job.id))

    def link(self, number: int) -> Made:
        """A generation with a callback, and a webhook beside it."""
        prompt = f"link:{number}"
        webhook = self._webhook(number).model_dump(mode="json")
        result = generate.apply_async((prompt,), {"webhook": webhook}, link=next_task.s())
        follows = f"next {answer(prompt)}"
        return Made("link", result, answer(prompt), (follows,), (prompt,), _told(result.job.id))

    def chain(self, number: int) -> Made:
        """A generation, another of what it gave, and an ordinary task."""
        first = f"chain:{number}"
        second = answer(first)
        result = chain(generate.s(first), generate.s(max_tokens=3), next_task.s())()
        follows = f"next {answer(second)}"
        return Made("chain", result, follows, (follows,), (first, second))

    def linked(self, number: int) -> Made:
        """A generation as the callback of another."""
        first = f"linked:{number}"
        result = generate.apply_async((first,), link=generate.s().set(link=next_task.s()))
        second = answer(first)
        return Made("linked", result, second, (f"next {answer(second)}",), (first, second))

    def chord(self, number: int) -> Made:
        prompts = [f"{part}:{number}" for part in ("chord", "last")]
        result = chord([generate.s(prompt) for prompt in prompts])(body_task.s())
        follows = f"body {answer(prompts[0])}|{answer(prompts[1])}"
        return Made("chord", result, follows, (follows,), tuple(prompts))

    def failing(self, number: int) -> Made:
        prompt = f"failing:{number}"
        result = generate.apply_async((prompt,), link_error=errback_task.s())
        return Made("failing", result, "JobFailed", (f"errback {result.id}",), (prompt,))

    def broken(self, number: int) -> Made:
        """A chord with a part whose first generation fails."""
        prompts = (f"broken:{number}", f"fine:{number}")
        parts = [chain(generate.s(prompts[0]), generate.s()), generate.s(prompts[1])]
        result = chord(parts)(body_task.s())
        return Made("broken", result, "ChordError", generated=prompts)

    def revoked(self, number: int) -> Made:
        result = generate.apply_async((f"revoked:{number}",), countdown=100)
        result.job.cancel()
        return Made("revoked", result, "TaskRevokedError")

    def make(self, kinds: Sequence[str], number: int) -> list[Made]:
        """One piece of each kind."""
        made = [getattr(self, kind)(number) for kind in kinds]
        self.made += made
        return made

    def _webhook(self, number: int) -> Webhook:
        """An endpoint for each round, so that attempts lost in one hold up no other."""
        return Webhook(url=f"{self.url}/{number}", events=EVENTS, secret=SECRET)

    # The engine --------------------------------------------------------------------------------------------

    def work(self, stopping: threading.Event) -> None:
        """Answer every job until told to stop."""
        while not stopping.wait(0.005):
            for job in run(self.redis, claim(TAG, ClaimRequest("w", "n", 60_000, 10**6, 100))).jobs:
                prompt = json.loads(job.spec)["prompt"]
                failed, text = prompt.startswith(("failing", "broken")), answer(prompt)
                end_claimed(self.redis, TAG, job, text, failed=failed)
                self.answered[prompt] += 1

    # What is left to do ------------------------------------------------------------------------------------

    def is_done(self, made: Made, received: set[tuple[str, str]]) -> bool:
        """Whether all of it has followed."""
        ran = {what for what, _ in self.runs}
        ended = made.result is None or made.result.ready()
        return ended and set(made.follows) <= ran and made.told <= received

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is left to relay, to send or to run."""
        return not (self.redis.xlen(TAG.outbox) or self.redis.zcard(TAG.due()))
