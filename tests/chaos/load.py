"""Producers who keep a fleet busy with jobs of every kind, and the readers of those jobs."""

import asyncio
import json
import random
from collections.abc import Sequence
from typing import Any

import jsonschema

from headrace import AsyncClient

from .audience import Watched, insist, watch
from .ledger import Ledger
from .witness import Uninterrupted

UNENDED = 12
"""Jobs accepted and not ended at any time: what one engine process has slots for, when it is the last."""

PROMPTS = ("A dictionary is", "To open a file,", "The asyncio module", "Return a new string", "x")
ENDINGS = ("job.started", "job.succeeded", "job.failed", "job.cancelled", "job.expired")


def spec(number: int) -> dict[str, Any]:
    """One of the specifications, from which the tokens follow."""
    fields: dict[str, Any] = {
        "model": "demo",
        "max_tokens": 40 + 61 * (number % 7),
        "temperature": 0.0 if number % 3 == 0 else 0.9,
        "top_p": 0.95 if number % 5 == 0 else 1.0,
        "seed": number,
        "ignore_eos": True,
    }
    prompt = PROMPTS[number % 5] * (1 + number % 4)
    if number % 6 == 1:
        fields["messages"] = [{"role": "user", "content": prompt}]
    else:
        fields["prompt"] = prompt
    if number % 4 == 2:
        fields["stop"] = [" zip", "\n\n\n"]
    if number % 8 == 3:
        fields["logprobs"] = 1
    return fields


def nested(depth: int) -> dict[str, Any]:
    """A schema of objects within lists within objects."""
    inner = {"enum": ["alpha", "beta", 3, None]} if depth == 1 else nested(depth - 1)
    return {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "parts": {"type": "array", "minItems": 1, "maxItems": 2, "items": inner},
        },
        "required": ["name", "parts"],
        "additionalProperties": False,
    }


def under_a_schema(number: int) -> dict[str, Any]:
    """One of the specifications, whose answer follows a schema of depth 1 to 6."""
    schema = {"name": f"depth{number}", "schema": nested(1 + number % 6), "strict": True}
    form = {"type": "json_schema", "json_schema": schema}
    return {key: value for key, value in spec(number).items() if key not in ("ignore_eos", "stop")} | {
        "response_format": form,
        "max_tokens": 400,
        "temperature": 0.9,
    }


SPECS: Sequence[dict[str, Any]] = (*map(spec, range(24)), *map(under_a_schema, range(12)))


async def uninterrupted(
    client: AsyncClient, specs: Sequence[dict[str, Any]]
) -> tuple[list[Watched], list[Uninterrupted]]:
    """What each specification gives while nothing happens, and the jobs that showed it."""
    jobs = [await client.enqueue(**fields) for fields in specs]
    results = [await job.result(timeout_s=120) for job in jobs]
    for fields, result in zip(specs, results, strict=True):
        if "response_format" in fields and result.finish_reason == "stop":
            jsonschema.validate(json.loads(result.text), fields["response_format"]["json_schema"]["schema"])
    watched = [
        Watched(job.id, number, specs[number], None, end=result.state)
        for number, (job, result) in enumerate(zip(jobs, results, strict=True))
    ]
    return watched, [Uninterrupted(result.token_ids, result.text) for result in results]


class Load:
    """Jobs, and what became of them.

    Attributes:
        jobs: every job that was accepted.
    """

    def __init__(self, client: AsyncClient, ledger: Ledger, seed: int) -> None:
        self.jobs: list[Watched] = []
        self._client, self._ledger = client, ledger
        self._random = random.Random(seed)
        self._seed = seed
        self._readers: set[asyncio.Task[None]] = set()

    async def uninterrupted(self) -> list[Uninterrupted]:
        """What each specification gives while nothing happens."""
        jobs, outputs = await uninterrupted(self._client, SPECS)
        self.jobs += jobs
        return outputs

    async def keep_busy(self, enough: asyncio.Event) -> None:
        """Enqueue a job whenever there are too few, until there have been enough."""
        while not enough.is_set():
            await self._enqueue()
            if len(self._readers) >= UNENDED:
                await asyncio.wait(self._readers, return_when=asyncio.FIRST_COMPLETED)

    async def ended(self, timeout_s: float) -> None:
        """Wait until every reader has seen its job's end, or for so long."""
        if self._readers:
            await asyncio.wait(self._readers, timeout=timeout_s)
        left = list(self._readers)
        for reader in left:
            reader.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _enqueue(self) -> None:
        number = len(self.jobs)
        which = self._random.randrange(len(SPECS))
        fields = SPECS[which] | self._circumstances(number)
        # Until it is accepted: the key makes it one job, however many tries reached Redis.
        job = await insist(lambda: self._client.enqueue(**fields))
        watched = Watched(job.id, which, fields, [] if fields["stream"] else None)
        self.jobs.append(watched)
        reader = asyncio.create_task(self._read(watched))
        self._readers.add(reader)
        reader.add_done_callback(self._readers.discard)

    def _circumstances(self, number: int) -> dict[str, Any]:
        """What may happen to a job beside faults."""
        chance = self._random.random
        fields: dict[str, Any] = {
            "idempotency_key": f"{self._seed}-{number}",
            "job_class": self._random.choice(("interactive", "standard", "standard", "batch")),
            "tenant": f"tenant-{self._random.randrange(4)}",
            "max_attempts": 100,
            "stream": chance() < 0.8,
        }
        if chance() < 0.15:
            fields["delay_s"] = chance()
        if chance() < 0.4:
            fields["webhook"] = {"url": "http://127.0.0.1:9/", "events": ENDINGS}
        fate = chance()
        if fate < 0.08 and fields["stream"]:
            fields["metadata"] = {"ends": "cancelled", "cancel_at": str(self._random.randrange(1, 100))}
        elif fate < 0.14:
            fields |= {"deadline_s": 0.1 + 2 * chance(), "metadata": {"ends": "expired"}}
        return fields

    async def _read(self, watched: Watched) -> None:
        cancel_at = int(watched.fields.get("metadata", {}).get("cancel_at", -1))
        asked: list[asyncio.Task[Any]] = []

        def heard(job: Watched) -> None:
            if job.tokens is None:
                return
            self._ledger.heard(job.job_id)
            if not asked and 0 <= cancel_at <= len(job.tokens):
                asked.append(asyncio.create_task(insist(self._client.job(job.job_id).cancel)))

        await watch(self._client, watched, heard)
        await asyncio.gather(*asked)
