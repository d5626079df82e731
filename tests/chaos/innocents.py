"""Tenants who ask for nothing odd, and what they notice of the others: silences, waits, late webhooks."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from headrace import AsyncClient

from .audience import Watched, watch

WEIGHTS: Mapping[str, int] = {"ada": 1, "grace": 2, "linus": 1}
STREAMS = 4
"""Of each tenant at any time."""


class Gap(NamedTuple):
    """Somebody waited from one moment to the next, in seconds since the epoch."""

    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Felt:
    """What the innocents noticed between two moments: the longest of each, in seconds, if there was any."""

    silence_s: float
    first_token_s: float | None


@dataclass(slots=True, eq=False)
class Stream:
    """One job's stream, as its reader sees it.

    Attributes:
        since: when the job was asked for, then when it was heard last.
        speaks: it has had its first token.
    """

    since: float
    speaks: bool = False


@dataclass
class Innocents:
    """Keeps streams open, one after the other, until told to stop.

    Attributes:
        specs: what they ask for, as `Watched.spec` counts.
        prompts: how many tokens the prompt of each is.
        webhook: who is told of every end.
        jobs: every job that was accepted.
        stopping: ends all.
    """

    client: AsyncClient
    specs: Sequence[dict[str, Any]]
    prompts: Sequence[int]
    webhook: str
    jobs: list[Watched] = field(default_factory=list)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _open: dict[str, Stream] = field(default_factory=dict)
    _silences: list[Gap] = field(default_factory=list)
    _waits: list[Gap] = field(default_factory=list)

    async def keep_streaming(
        self, tenant: str, which: Sequence[int], enough: asyncio.Event | None = None
    ) -> None:
        """One stream after the other, of these specifications, until there are enough of them."""
        number = 0
        while not self.stopping.is_set() and not (enough and enough.is_set()):
            spec = which[number % len(which)]
            number += 1
            await self._stream(tenant, spec)

    async def _stream(self, tenant: str, spec: int) -> None:
        fields = {
            **self.specs[spec],
            "tenant": tenant,
            "job_class": "interactive",
            "webhook": {"url": self.webhook},
        }
        stream = Stream(time.time())
        job = await self.client.enqueue(**fields)
        watched = Watched(job.id, spec, fields, [])
        self.jobs.append(watched)
        self._open[job.id] = stream

        def heard(_: Watched) -> None:
            now = time.time()
            (self._silences if stream.speaks else self._waits).append(Gap(stream.since, now))
            stream.since, stream.speaks = now, True

        await watch(self.client, watched, heard)
        del self._open[job.id]

    def served(self) -> Counter[str]:
        """Tokens of each tenant so far, those of prompts with the first of an output."""
        served: Counter[str] = Counter()
        for job in self.jobs:
            if job.tokens:
                served[job.fields["tenant"]] += self.prompts[job.spec] + len(job.tokens)
        return served

    def felt(self, begin: float, end: float) -> Felt:
        """The longest silence of a stream that has begun, and the longest wait for a first token."""
        still = list(self._open.values())
        silences = [*self._silences, *(Gap(each.since, end) for each in still if each.speaks)]
        waits = [*self._waits, *(Gap(each.since, end) for each in still if not each.speaks)]
        first = within(waits, begin, end)
        return Felt(max(within(silences, begin, end), default=0.0), max(first, default=None))

    async def all_going_on(self, timeout_s: float) -> bool:
        """Wait until every stream that is open now has said something, or has ended; whether they all do."""
        asked_at = time.time()
        waited_for = {job_id for job_id, stream in self._open.items() if stream.since <= asked_at}
        while time.time() < asked_at + timeout_s:
            waited_for = {job_id for job_id in waited_for if self._is_silent(job_id, asked_at)}
            if not waited_for:
                return True
            await asyncio.sleep(0.02)
        return False

    def _is_silent(self, job_id: str, asked_at: float) -> bool:
        stream = self._open.get(job_id)
        return stream is not None and stream.since <= asked_at


def within(gaps: Sequence[Gap], begin: float, end: float) -> list[float]:
    """The parts of the gaps that lie between two moments."""
    cut = (min(gap.until, end) - max(gap.since, begin) for gap in gaps)
    return [length for length in cut if length > 0]
