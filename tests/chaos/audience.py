"""Those who wait for the jobs: each job has one reader, attached from its acceptance to its end."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace import AsyncClient, HeadraceError, JobCancelled, JobExpired, JobFailed, JobState


@dataclass(slots=True, eq=False)
class Watched:
    """An accepted job and what its reader has seen of it.

    Attributes:
        spec: which of the load's specifications it follows.
        fields: what it was enqueued with.
        tokens, text: from the one iterator that was attached all the time; None: it waits for the result.
        end: the terminal state, as the reader was told.
        problems: what a reader may never see.
    """

    job_id: str
    spec: int
    fields: Mapping[str, Any]
    tokens: list[int] | None
    text: str = ""
    end: JobState | None = None
    problems: list[str] = field(default_factory=list)


async def watch(
    client: AsyncClient,
    watched: Watched,
    on_tokens: Callable[[Watched], None] = lambda _: None,
) -> None:
    """Read the job to its end."""
    try:
        if watched.tokens is None:
            await client.job(watched.job_id).result()
        else:
            async for chunk in client.job(watched.job_id).stream():
                if chunk.start != len(watched.tokens):
                    watched.problems.append(f"read on at {chunk.start} after {len(watched.tokens)} tokens")
                watched.tokens += chunk.token_ids
                watched.text += chunk.text
                on_tokens(watched)
        watched.end = JobState.SUCCEEDED
    except JobFailed as failed:
        watched.end = JobState.FAILED
        if failed.reason not in watched.fields.get("metadata", {}).get("may_fail", ()):
            watched.problems.append(f"failed: {failed}")
    except JobCancelled:
        watched.end = JobState.CANCELLED
    except JobExpired:
        watched.end = JobState.EXPIRED
    except HeadraceError as error:
        watched.problems.append(f"its reader got {type(error).__name__}: {error}")
    on_tokens(watched)


async def insist(attempt: Callable[[], Any], pause_s: float = 0.2) -> Any:
    """What `attempt` gives, asking again for as long as Redis can't be reached."""
    from headrace import BrokerUnavailable

    while True:
        try:
            return await attempt()
        except BrokerUnavailable:
            await asyncio.sleep(pause_s)
