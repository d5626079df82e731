"""The blocking client."""

import os
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from threading import BoundedSemaphore, Event
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from ..schemas.errors import HeadraceError, JobsRefused
from ..schemas.events import Chunk, JobResult, JobStatus
from ..schemas.job import Job
from ..schemas.redis.connection import broker_errors, connect, server_info
from ..schemas.scripts import Call, CancelStatus, run, run_confirmed, run_many
from .answer_reader import AnswerReader
from .completed import Completed
from .embed import Input, embed_jobs, first_of, seconds_until, vector_of
from .hub import ThreadedHub
from .mailbox import client_closed
from .operate.models import ModelInfo, read_models
from .operate.overview import QueueInfo, WorkerInfo, read_queues, read_workers
from .operations import JobLike
from .producer import MAX_CONNECTIONS, Handle, Producer, handles
from .rank import Ranked, check_documents, rank_jobs, rank_scores, ranked
from .reading import StreamReader, read_before, read_result, result_mailbox, stream_reader
from .score import Score, score_jobs, score_of
from .steps import Calls, Compute, Confirmed, Listen, Pause, Read, Request, ServerInfo, Steps, Write, drive
from .waiting import explain

if TYPE_CHECKING:
    from .operate.admin import Admin

CLOSE_S = 2.0
"""How long `close` waits for requests in flight. Not longer, because a Ctrl-C while a slot is taken or
returned loses the slot."""

T = TypeVar("T")


class _ClientLink:
    """One process's connections to Redis, which perform requests by blocking. Thread-safe."""

    def __init__(self, url: str) -> None:
        self._pid = os.getpid()
        self._redis = connect(url)
        self._hub = ThreadedHub(url)
        self._slots = BoundedSemaphore(MAX_CONNECTIONS)
        self._closed = False

    def perform(self, request: Request) -> Any:
        match request:
            case Listen(mailbox, seconds):
                mailbox.join(self._hub)
                return mailbox.news.wait(seconds)
            case Pause(seconds):
                return time.sleep(seconds)
            case Compute(work):
                return work()
        with self._slots:
            # With the slot held: `close` waits for all slots, so nothing is sent after it.
            if self._closed:
                raise client_closed()
            match request:
                case Calls(calls):
                    return run_many(self._redis, calls)
                case Confirmed(calls, replicas, wait_ms):
                    return run_confirmed(self._redis, calls, replicas, wait_ms)
                case Read(commands) | Write(commands):
                    pipe = self._redis.pipeline(transaction=False)
                    for command in commands:
                        pipe.execute_command(*command)
                    with broker_errors():
                        return pipe.execute()
                case ServerInfo():
                    with broker_errors():
                        return server_info(self._redis)
                case Call():
                    return run(self._redis, request)

    def close(self) -> None:
        if self._closed or os.getpid() != self._pid:  # a forked child leaves its parent's connections alone
            return
        self._closed = True
        self._hub.close()
        give_up_at, held = time.monotonic() + CLOSE_S, 0
        while held < MAX_CONNECTIONS and self._slots.acquire(timeout=max(0.0, give_up_at - time.monotonic())):
            held += 1
        self._redis.close()
        # A thread that still waits for a slot gets it, and is told that the client was closed.
        self._slots.release(held)


class Client(Producer["JobHandle"]):
    """Enqueues jobs and reads their streams and results.

    Thread-safe, and usable in forked children: each process makes connections of its own. One Pub/Sub
    connection serves any number of streams. `close()`, or a `with` block, closes the connections.
    """

    def _connect(self, url: str) -> None:
        self._url = url
        self._links: dict[int, _ClientLink] = {}
        self._link()

    def _link(self) -> _ClientLink:
        # No lock: another thread might hold it at the moment of a fork.
        link = self._links.get(os.getpid())
        if link is None:
            link = self._links.setdefault(os.getpid(), _ClientLink(self._url))
            # Closed with the client, wherever that is let go of, and at the interpreter's exit.
            weakref.finalize(self, link.close)
        return link

    def _run(self, steps: Steps[T]) -> T:
        return drive(steps, self._link().perform)

    def _enqueue(self, job: Job, job_id: str | None = None) -> "JobHandle":
        return JobHandle(self, self._run(self._operations.enqueue(job, job_id)))

    def _job_of_task(self, task_id: str) -> "JobHandle":
        return JobHandle(self, self._run(self._operations.job_of_task(task_id)))

    def enqueue_many(self, jobs: Iterable[JobLike]) -> "list[JobHandle]":
        """Enqueue jobs, each a `Job` or a dict of `enqueue`'s arguments, a few hundred per round trip.

        Every job that can be enqueued is, even if others are refused. The jobs may come from a generator of
        any length; handles are returned in the same order.

        Raises:
            JobsRefused: some were refused, or not accepted before the connection was lost for too long, or
                `jobs` raised; its `outcomes` holds a handle or an error for each.
            BrokerUnavailable: Redis could not be reached before any job was accepted.
        """
        outcomes = self._run(self._operations.enqueue_many(jobs))
        return handles(outcomes, lambda job_id: JobHandle(self, job_id))

    def embed(
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
        """Return the vector of each text, in order; each is a job, and they are computed side by side.

        Args:
            inputs: texts, or lists of token ids; a single text is a list of one.
            model: the served name of the model.
            pooling: take the last token's hidden state, or the mean of all tokens'; by default what the model
                is made for.
            normalize: scale each vector to length 1.
            dimensions: keep only this many of each vector's first numbers.
            timeout_s: how long to wait, for all of them.
            arguments: others of `enqueue`, such as `job_class` and `tenant`.

        Raises:
            InvalidJob: an argument is out of range, or an input is neither a text nor token ids.
            ResultTimeout, JobFailed, JobCancelled, JobExpired: one has no vector; the others are cancelled.
            UnknownModel, QueueFull, RateLimited, BrokerUnavailable: see `enqueue`.
        """
        asked = embed_jobs(inputs, pooling, normalize, dimensions, {**arguments, "model": model})
        return [vector_of(result) for result in self._results_of(asked, timeout_s)]

    def score(
        self,
        prompt: Input | None,
        continuations: Input | Sequence[Input],
        *,
        model: str,
        timeout_s: float | None = None,
        **arguments: Any,
    ) -> list[Score]:
        """Return how likely each continuation is after the prompt, in order.

        Each is a job, and they are computed side by side; the prompt's pages in the KV cache are shared. A
        text is tokenised apart from the prompt, so the tokens of both don't depend on each other.

        Args:
            prompt: a text or token ids; None if `messages` are given.
            continuations: texts, or lists of token ids if the prompt is one; a single text is a list of one.
            model: the served name of the model.
            timeout_s: how long to wait, for all of them.
            arguments: others of `enqueue`, such as `messages`, `job_class` and `tenant`.

        Raises:
            InvalidJob: an argument is out of range, or a continuation is neither a text nor token ids.
            ResultTimeout, JobFailed, JobCancelled, JobExpired: one has no score; the others are cancelled.
            UnknownModel, QueueFull, RateLimited, BrokerUnavailable: see `enqueue`.
        """
        asked = score_jobs(prompt, continuations, {**arguments, "model": model})
        return [score_of(result) for result in self._results_of(asked, timeout_s)]

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        model: str,
        top_n: int | None = None,
        timeout_s: float | None = None,
        **arguments: Any,
    ) -> list[Ranked]:
        """Return the documents, the ones that answer the query best first; each is a job.

        A reranker scores each with the query. An embedding model compares their vectors by their cosine.

        Args:
            query: a text.
            documents: texts.
            model: the served name of a model that is made for scores or embeddings.
            top_n: return only this many.
            timeout_s: how long to wait, for all of them.
            arguments: others of `enqueue`, such as `job_class` and `tenant`.

        Raises:
            InvalidJob: an argument is wrong, or the model is made to generate.
            ResultTimeout, JobFailed, JobCancelled, JobExpired: one has no score; the others are cancelled.
            UnknownModel, QueueFull, RateLimited, BrokerUnavailable: see `enqueue`.
        """
        texts = check_documents(documents, top_n)
        tasks = {each.id: each.task for each in self.models()}
        asked = rank_jobs(model, tasks.get(model), [query], texts, {**arguments, "model": model})
        return ranked(rank_scores(self._results_of(asked, timeout_s), 1), texts, top_n)

    def _results_of(self, asked: Iterable[JobLike], timeout_s: float | None) -> list[JobResult]:
        """The results of these jobs, none of which is left if one has no result."""
        give_up_at = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            jobs = self.enqueue_many(asked)
        except JobsRefused as refused:
            self._cancel_all(outcome for outcome in refused.outcomes if isinstance(outcome, JobHandle))
            raise first_of(refused) from None
        try:
            return [job.result(seconds_until(give_up_at)) for job in jobs]
        except BaseException:
            self._cancel_all(jobs)
            raise

    def _cancel_all(self, jobs: "Iterable[JobHandle]") -> None:
        for job in jobs:
            with suppress(HeadraceError):
                job.cancel()

    def job(self, job_id: str) -> "JobHandle":
        """Make a handle to a job that was enqueued elsewhere, without asking Redis yet.

        Raises:
            JobNotFound: `job_id` is not the id of any job.
        """
        self._operations.tag_of(job_id)
        return JobHandle(self, job_id)

    def as_completed(
        self, jobs: "Iterable[JobHandle]", timeout_s: float | None = None
    ) -> "Iterator[JobHandle]":
        """Yield each of the jobs once, as soon as it has ended in any way; the first to end comes first.

        `job.result()` then returns or raises without waiting. The client's one Pub/Sub connection listens for
        all of them at once.

        Raises:
            ResultTimeout: some have not ended `timeout_s` after the call; they continue.
            BrokerUnavailable: Redis was unreachable for too long, or the client was closed.
            BadSetting: something isn't a handle, or isn't a number of seconds.
        """
        return self._completed(Completed(self._operations, jobs, timeout_s, Event()))

    def _completed(self, completed: "Completed[JobHandle]") -> "Iterator[JobHandle]":
        try:
            while jobs := self._run(completed.next()):
                yield from jobs
        finally:
            completed.leave()

    def models(self) -> list[ModelInfo]:
        """The models that have been served here, by name, with how many workers serve each now."""
        return self._run(read_models(self._operations))

    def queues(self) -> list[QueueInfo]:
        """The queues of those models that have waiting or running jobs."""
        return self._run(read_queues(self._operations))

    def workers(self) -> list[WorkerInfo]:
        """The engine processes of those models that were heard from in the last minute."""
        return self._run(read_workers(self._operations))

    @property
    def admin(self) -> "Admin":
        """The operator's side: dead letters, tenants, webhook deliveries, workers, the doctor."""
        from .operate.admin import Admin  # most clients enqueue and read, and need none of it

        return Admin(self._operations, self._run, self._url)

    def close(self) -> None:
        """Close this process's connections; pending and later calls raise `BrokerUnavailable`."""
        self._link().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class JobHandle(Handle[Client]):
    """One job. Handles are cheap, and equal if their ids are; `client.job(id)` makes one anywhere."""

    __slots__ = ()

    def stream(self, from_offset: int = 0, timeout_s: float | None = None) -> Iterator[Chunk]:
        """Yield the job's output as it is generated, from token `from_offset` on, every token exactly once.

        A chunk's `offset` is the cursor to continue from. The stream survives the death of workers, restarts
        of Redis and lost connections, and waits up to two minutes for an unreachable Redis. Text that only
        became final with the end comes in a last chunk without tokens.

        Raises:
            JobFailed, JobCancelled, JobExpired: after the last chunk, if the job did not succeed.
            ResultTimeout: the job has not ended after `timeout_s`; it continues.
            JobNotFound: there is no such job, or its retention has ended.
            StreamReset: Redis lost tokens that this reader has seen.
            RecordDamaged: the job's log can't be read.
            BrokerUnavailable: Redis was unreachable for too long, or the client was closed.
            BadSetting: the offset is negative or not a number, or the limit isn't a number of seconds.
        """
        operations = self._client._operations
        return self._chunks(stream_reader(operations, self.id, from_offset, timeout_s, Event()))

    def _chunks(self, reader: StreamReader) -> Iterator[Chunk]:
        answer, offset = AnswerReader(self.id), reader.cursor.seen
        try:
            if offset and (before := self._client._run(read_before(reader.operations, self.id, offset))):
                answer.skip(before)
            while (chunks := self._client._run(reader.read())) is not None:
                for chunk in chunks:
                    yield answer.explained(chunk)
            yield from answer.rest(reader.cursor.seen)
        finally:
            reader.mailbox.leave()

    def result(self, timeout_s: float | None = None) -> JobResult:
        """Wait for the job to end, for at most `timeout_s`, and return its result.

        Raises:
            ResultTimeout: the job has not ended in time; it continues. The message says what it is waiting
            for.
            JobFailed, JobCancelled, JobExpired: the job did not succeed.
            JobNotFound: there is no such job, or its retention has ended.
            BrokerUnavailable: Redis was unreachable for too long, or the client was closed.
        """
        operations = self._client._operations
        mailbox = result_mailbox(operations, self.id, Event())
        try:
            return self._client._run(read_result(operations, self.id, mailbox, timeout_s))
        finally:
            mailbox.leave()

    def status(self) -> JobStatus:
        """Where the job is now.

        Raises:
            JobNotFound: there is no such job, or its retention has ended.
        """
        return self._client._run(self._client._operations.status(self.id))

    def waits_for(self) -> str | None:
        """Say why the job has not ended, or that it has; None if that is unknown."""
        waiting = self._client._run(explain(self._client._operations, self.id))
        return waiting.text if waiting else None

    def cancel(self) -> CancelStatus:
        """Cancel the job: at once if it is waiting, at its worker's next flush if it is running.

        Returns:
            "cancelled", "cancelling", or "already" if it had ended before.

        Raises:
            JobNotFound: there is no such job, or its retention has ended.
        """
        return self._client._run(self._client._operations.cancel(self.id))
