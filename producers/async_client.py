"""The asyncio client: `Client` with `await` and `async for`."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import aclosing, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from ..schemas.errors import BrokerUnavailable, HeadraceError, JobsRefused
from ..schemas.events import Chunk, JobResult, JobStatus
from ..schemas.job import Job
from ..schemas.redis.connection import broker_errors, connect_async, server_info_async
from ..schemas.scripts import Call, CancelStatus, run_async, run_confirmed_async, run_many_async
from .answer_reader import AnswerReader
from .completed import Completed
from .embed import Input, embed_jobs, first_of, seconds_until, vector_of
from .hub import Hub
from .mailbox import client_closed
from .news import News
from .operate.models import ModelInfo, read_models
from .operate.overview import QueueInfo, WorkerInfo, read_queues, read_workers
from .operations import JobLike
from .producer import MAX_CONNECTIONS, Handle, Producer, handles
from .progress import JobProgress, read_progress
from .rank import Ranked, check_documents, rank_jobs, rank_scores, ranked
from .reading import StreamReader, read_before, read_result, result_mailbox, stream_reader
from .routing import AliasFound
from .score import Score, score_jobs, score_of
from .steps import (
    Calls,
    Compute,
    Confirmed,
    Listen,
    Pause,
    Read,
    Request,
    ServerInfo,
    Steps,
    Write,
    drive_async,
)
from .waiting import explain

if TYPE_CHECKING:
    from .operate.async_admin import AsyncAdmin

REPLY_S = 15.0
"""Seconds after which a Redis that has not answered counts as lost."""

T = TypeVar("T")


class _AsyncClientLink:
    """One event loop's connections to Redis; they can't be used in any other loop."""

    def __init__(self, url: str) -> None:
        # `perform` has a timeout of its own: with one on the socket, redis-py sends inside a `wait_for`,
        # which on Python 3.11 swallows a cancellation that comes at the wrong moment.
        self._redis = connect_async(url, socket_timeout=None)
        self._hub = Hub(url)
        self._slots = asyncio.Semaphore(MAX_CONNECTIONS)
        self._closed = False

    async def perform(self, request: Request) -> Any:
        match request:
            case Listen(mailbox, seconds):
                mailbox.join(self._hub)
                return await mailbox.news.wait(seconds)
            case Pause(seconds):
                return await asyncio.sleep(seconds)
            case Compute(work):
                return await asyncio.to_thread(work)
        async with self._slots:
            # With the slot held, as in the blocking client.
            if self._closed:
                raise client_closed()
            try:
                async with asyncio.timeout(REPLY_S):
                    return await self._ask(request)
            except TimeoutError as error:
                raise BrokerUnavailable(f"Redis: no answer within {REPLY_S:g} s") from error

    async def _ask(self, request: Call[Any] | Calls | Confirmed | Read | Write | ServerInfo) -> Any:
        match request:
            case Calls(calls):
                return await run_many_async(self._redis, calls)
            case Confirmed(calls, replicas, wait_ms):
                return await run_confirmed_async(self._redis, calls, replicas, wait_ms)
            case Read(commands) | Write(commands):
                pipe = self._redis.pipeline(transaction=False)
                for command in commands:
                    pipe.execute_command(*command)
                with broker_errors():
                    return await pipe.execute()
            case ServerInfo():
                with broker_errors():
                    return await server_info_async(self._redis)
            case Call():
                return await run_async(self._redis, request)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._hub.close()
        for _ in range(MAX_CONNECTIONS):  # requests in flight may finish
            await self._slots.acquire()
        await self._redis.aclose()
        for _ in range(MAX_CONNECTIONS):
            self._slots.release()


class AsyncClient(Producer[Coroutine[Any, Any, "AsyncJobHandle"]]):
    """`Client` for asyncio. It can be made anywhere, and used in one event loop after another.

    In each loop, one Pub/Sub connection and one task serve any number of streams. A loop's connections close
    with the loop; `await close()`, or an `async with` block, closes them earlier.
    """

    def _connect(self, url: str) -> None:
        self._url = url
        self._links: dict[asyncio.AbstractEventLoop, tuple[_AsyncClientLink, AsyncGenerator[None]]] = {}
        self._closed = False

    async def _perform(self, request: Request) -> Any:
        loop = asyncio.get_running_loop()
        if loop not in self._links:
            if self._closed:
                raise client_closed()
            link = _AsyncClientLink(self._url)
            self._links[loop] = link, self._until_the_end_of(loop, link)
            # Up to its `yield`: asyncio ends only generators that have begun.
            await anext(self._links[loop][1])
        return await self._links[loop][0].perform(request)

    async def _until_the_end_of(
        self, loop: asyncio.AbstractEventLoop, link: _AsyncClientLink
    ) -> AsyncGenerator[None]:
        """Close the link with its loop: asyncio ends a loop's generators before it closes the loop."""
        try:
            yield
        finally:
            self._links.pop(loop, None)
            await link.close()

    async def _run(self, steps: Steps[T]) -> T:
        return await drive_async(steps, self._perform)

    async def _enqueue(self, job: Job) -> "AsyncJobHandle":
        return AsyncJobHandle(self, await self._run(self._operations.enqueue(job)))

    async def enqueue_many(self, jobs: Iterable[JobLike]) -> "list[AsyncJobHandle]":
        """See `Client.enqueue_many`."""
        outcomes = await self._run(self._operations.enqueue_many(jobs))
        return handles(outcomes, lambda job_id: AsyncJobHandle(self, job_id))

    async def embed(
        self,
        inputs: str | Sequence[Input],
        *,
        model: str,
        pooling: Literal["last", "mean"] | None = None,
        normalize: bool = True,
        dimensions: int | None = None,
        timeout_s: float | None = None,
        **arguments: Any,
    ) -> list[list[float]]:
        """See `Client.embed`."""
        asked = embed_jobs(inputs, pooling, normalize, dimensions, {**arguments, "model": model})
        return [vector_of(result) for result in await self._results_of(asked, timeout_s)]

    async def score(
        self,
        prompt: Input | None,
        continuations: Input | Sequence[Input],
        *,
        model: str,
        timeout_s: float | None = None,
        **arguments: Any,
    ) -> list[Score]:
        """See `Client.score`."""
        asked = score_jobs(prompt, continuations, {**arguments, "model": model})
        return [score_of(result) for result in await self._results_of(asked, timeout_s)]

    async def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        model: str,
        top_n: int | None = None,
        timeout_s: float | None = None,
        **arguments: Any,
    ) -> list[Ranked]:
        """See `Client.rerank`."""
        texts = check_documents(documents, top_n)
        tasks = {each.id: each.task for each in await self.models()}
        asked = rank_jobs(model, tasks.get(model), [query], texts, {**arguments, "model": model})
        return ranked(rank_scores(await self._results_of(asked, timeout_s), 1), texts, top_n)

    async def _results_of(self, asked: Iterable[JobLike], timeout_s: float | None) -> list[JobResult]:
        """See `Client._results_of`."""
        give_up_at = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            jobs = await self.enqueue_many(asked)
        except JobsRefused as refused:
            await self._cancel_all(each for each in refused.outcomes if isinstance(each, AsyncJobHandle))
            raise first_of(refused) from None
        try:
            return [await job.result(seconds_until(give_up_at)) for job in jobs]
        except BaseException:
            await self._cancel_all(jobs)
            raise

    async def _cancel_all(self, jobs: "Iterable[AsyncJobHandle]") -> None:
        for job in jobs:
            with suppress(HeadraceError):
                await job.cancel()

    def job(self, job_id: str) -> "AsyncJobHandle":
        """See `Client.job`; nothing to await."""
        self._operations.tag_of(job_id)
        return AsyncJobHandle(self, job_id)

    def as_completed(
        self, jobs: "Iterable[AsyncJobHandle]", timeout_s: float | None = None
    ) -> "AsyncIterator[AsyncJobHandle]":
        """See `Client.as_completed`; read it with `async for`."""
        news = News()
        return self._completed(Completed(self._operations, jobs, timeout_s, news), news)

    async def _completed(
        self, completed: "Completed[AsyncJobHandle]", news: News
    ) -> "AsyncIterator[AsyncJobHandle]":
        try:
            while jobs := await self._run(completed.next()):
                for job in jobs:
                    yield job
        finally:
            completed.leave()
            news.close()

    async def models(self) -> list[ModelInfo]:
        """See `Client.models`."""
        return await self._run(read_models(self._operations))

    async def queues(self) -> list[QueueInfo]:
        """See `Client.queues`."""
        return await self._run(read_queues(self._operations))

    async def workers(self) -> list[WorkerInfo]:
        """See `Client.workers`."""
        return await self._run(read_workers(self._operations))

    @property
    def admin(self) -> "AsyncAdmin":
        """See `Client.admin`; nothing to await."""
        from .operate.async_admin import AsyncAdmin  # most clients enqueue and read, and need none of it

        return AsyncAdmin(self._operations, self._run, self._url)

    async def close(self) -> None:
        """Close this loop's connections; pending and later calls raise `BrokerUnavailable`."""
        self._closed = True
        link, _ = self._links.get(asyncio.get_running_loop(), (None, None))
        if link is not None:
            await link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncJobHandle(Handle[AsyncClient]):
    """One job; `JobHandle` for asyncio."""

    __slots__ = ()

    def stream(self, from_offset: int = 0, timeout_s: float | None = None) -> AsyncIterator[Chunk]:
        """See `JobHandle.stream`; read it with `async for`."""
        operations = self._client._operations
        return self._chunks(stream_reader(operations, self.id, from_offset, timeout_s, News()))

    async def _chunks(self, reader: StreamReader) -> AsyncIterator[Chunk]:
        answer, offset = AnswerReader(self.id), reader.cursor.seen
        async with aclosing(_lists(self._client, reader)) as lists:
            if offset and (
                before := await self._client._run(read_before(reader.operations, self.id, offset))
            ):
                answer.skip(before)
            async for chunks in lists:
                for chunk in chunks:
                    yield answer.explained(chunk)
        for chunk in answer.rest(reader.cursor.seen):
            yield chunk

    async def result(self, timeout_s: float | None = None) -> JobResult:
        """See `JobHandle.result`."""
        return await self._result(timeout_s, new=False)

    async def _result(self, timeout_s: float | None, *, new: bool) -> JobResult:
        operations, news = self._client._operations, News()
        mailbox = result_mailbox(operations, self.id, news)
        try:
            return await self._client._run(read_result(operations, self.id, mailbox, timeout_s, new=new))
        finally:
            mailbox.leave()
            news.close()

    async def status(self) -> JobStatus:
        """See `JobHandle.status`."""
        return await self._client._run(self._client._operations.status(self.id))

    async def waits_for(self) -> str | None:
        """See `JobHandle.waits_for`."""
        waiting = await self._client._run(explain(self._client._operations, self.id))
        return waiting.text if waiting else None

    async def cancel(self) -> CancelStatus:
        """See `JobHandle.cancel`."""
        return await self._client._run(self._client._operations.cancel(self.id))


def ready_chunks(
    job: AsyncJobHandle, from_offset: int = 0, *, restarts: int | None = None
) -> AsyncGenerator[list[Chunk]]:
    """The job's stream, with all chunks at once that are there already; see `AsyncJobHandle.stream`.

    With `restarts`, the stream is reset unless the job has been started over exactly this often.
    """
    client = job._client
    reader = stream_reader(client._operations, job.id, from_offset, None, News(), restarts=restarts)
    return _lists(client, reader)


async def enqueue_named(
    client: AsyncClient, jobs: Sequence[Job]
) -> list[AsyncJobHandle | HeadraceError | AliasFound]:
    """Enqueue jobs for the very models that they ask for; `AliasFound` for one that asks for an alias."""
    outcomes = await client._run(client._operations.enqueue_named(jobs))
    return [AsyncJobHandle(client, each) if isinstance(each, str) else each for each in outcomes]


def is_served(client: AsyncClient, model: str) -> bool:
    """Whether the client knows, without asking, that the model was served here."""
    return client._operations.serves(model)


async def new_result(job: AsyncJobHandle, timeout_s: float | None = None) -> JobResult:
    """The result of a job that was just enqueued, which isn't looked for before it can be there."""
    return await job._result(timeout_s, new=True)


async def progress(job: AsyncJobHandle) -> JobProgress:
    """How far the job has come; much cheaper than its status if its prompt is long."""
    return await job._client._run(read_progress(job._client._operations, job.id))


async def _lists(client: AsyncClient, reader: StreamReader) -> AsyncGenerator[list[Chunk]]:
    try:
        while (chunks := await client._run(reader.read())) is not None:
            if chunks:
                yield chunks
    finally:
        reader.mailbox.leave()
        reader.mailbox.news.close()
