"""The engine process's side of intake: what waits, whose turn it is, and what happens to jobs given up.

There are two lanes, each with a thread that sends one job after the other to a place of its own and waits for
it outside the interpreter's lock. Jobs start in the quick one, where each may take only a moment; those that
take longer, or are large, go through the slow one, where each may take `intake_s`. Within a lane, tenants
take turns. So a small prompt waits at most a moment for each other tenant, no matter what they send.
"""

import socket
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
from redis import Redis

from ....engine import Adapter, ModelError, Request
from ....schemas.errors import BrokerUnavailable
from ....schemas.events import FailureCode
from ....schemas.scripts import ClaimedJob
from ....schemas.wire import WireJob
from ..prepared import Asked, Prepared
from ..running_job import RunningJob
from ..text import GrammarError, Grammars, TextStream, TokenizerError, TokenText, shown_by
from . import frames, record, token_log
from .places import Places
from .process import QUICK, SLOW, answer_in
from .refusal import refusal
from .requests import Requests

QUICK_S = 0.25
"""CPU time that a job may take before it goes through the slow lane."""

QUICK_BYTES, QUICK_TOKENS = 256 * 1024, 4096
"""Jobs that are larger, or have a longer log, start in the slow lane."""

GRACE_S = 5.0
"""How much longer to wait for a place that its own timer should have ended."""

RETRY_S = 0.2
"""The pause between two tries to read a log from an unreachable Redis, or to get a living place."""

MOST_UNREAD = 10
"""How many places may end before reaching a job until the job is considered the cause."""

log = structlog.get_logger(__name__)

T = TypeVar("T")


@dataclass(slots=True)
class Admission:
    """A job that has been read, and the request to run for it; no request if it can't run.

    `others` are the requests for further answers, to be run once the first has computed their prompt.
    """

    running: RunningJob
    prepared: Prepared
    job: WireJob | None = None
    texts: list[TextStream] = field(default_factory=list)
    request: Request | None = None
    others: list[Request] = field(default_factory=list)


@dataclass(slots=True)
class _Ticket:
    running: RunningJob
    claimed: ClaimedJob
    tries: int = 0
    unread: int = 0


class _PlaceEnded(Exception):
    """The place ended while it read a job; `at` is the last stage that it reported."""

    def __init__(self, at: str, took_s: float) -> None:
        super().__init__(at)
        self.at, self.took_s = at, took_s


class _FairQueue:
    """The jobs waiting for a lane, whose tenants take turns."""

    def __init__(self) -> None:
        self._tenants: OrderedDict[str, deque[_Ticket]] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False

    def put(self, ticket: _Ticket) -> None:
        with self._changed:
            self._tenants.setdefault(ticket.running.tenant, deque()).append(ticket)
            self._changed.notify()

    def get(self) -> _Ticket | None:
        """Wait for the next job; None if the queue is closed."""
        with self._changed:
            while not self._tenants and not self._closed:
                self._changed.wait()
            if self._closed:
                return None
            # One job of the tenant at the head, who then goes to the end. A tenant with a thousand jobs
            # delays another's only one by a single job.
            tenant, tickets = self._tenants.popitem(last=False)
            ticket = tickets.popleft()
            if tickets:
                self._tenants[tenant] = tickets  # behind all others
            return ticket

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()


class Intake:
    """Reads claimed jobs beside the engine.

    Args:
        places: where they are read.
        redis: where their logs are.
        tokenizer: writes their text.
        grammars: compiles those that their answers must follow.
        context_tokens: maximum number of tokens of prompt and output together.
        most_s: how long a job may take.
        load_adapter: makes the engine ready for an adapter; None if it computes without.

    Attributes:
        wake: called from other threads when a job has been read.
    """

    def __init__(
        self,
        places: Places,
        redis: Redis,
        tokenizer: TokenText,
        grammars: Grammars,
        context_tokens: int,
        most_s: float,
        load_adapter: Callable[[Adapter], None] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self._requests = Requests(tokenizer, grammars, load_adapter)
        self.wake: Callable[[], None] = lambda: None
        self._places, self._redis = places, redis
        self._context_tokens, self._most_s = context_tokens, most_s
        self._done: deque[Admission] = deque()
        self._closing = threading.Event()
        self._quick, self._slow = _FairQueue(), _FairQueue()
        self._busy_since: dict[bytes, float] = {}
        for kind in (QUICK, SLOW):
            threading.Thread(
                target=self._serve, args=(kind,), name=f"headrace-intake-{kind.decode()}", daemon=True
            ).start()

    def put(self, running: RunningJob, claimed: ClaimedJob) -> None:
        """Start reading a claimed job, which `ready` returns when that is done. Call from any thread."""
        # It would use up its quick time for certain, while small jobs wait behind it.
        large = claimed.spec_bytes > QUICK_BYTES or claimed.offset > QUICK_TOKENS
        (self._slow if large else self._quick).put(_Ticket(running, claimed))

    def ready(self, most_tokens: int) -> Iterator[Admission]:
        """Take jobs that have been read, up to this many tokens but at least one, if there is one."""
        # `known`: the claim's answer may still be on its way to the roster, which the job must reach first.
        while self._done and self._done[0].running.known and most_tokens > 0:
            admission = self._done.popleft()
            most_tokens -= 1 + admission.prepared.prompt_tokens
            yield admission

    @property
    def waiting(self) -> bool:
        """Whether a job that has been read is waiting to be taken."""
        return bool(self._done) and self._done[0].running.known

    def overdue_s(self) -> float:
        """How long a job has been read beyond its time limit."""
        now = time.monotonic()
        since = min(list(self._busy_since.values()), default=now)
        return max(0.0, now - since - self._most_s - GRACE_S)

    def close(self) -> None:
        """Stop the lanes and their places, abandoning what they are reading."""
        self._closing.set()
        self._quick.close()
        self._slow.close()
        self._places.close()

    # A lane's thread --------------------------------------------------------------------------------------

    def _serve(self, kind: bytes) -> None:
        place: socket.socket | None = None
        queue = self._quick if kind == QUICK else self._slow
        while (ticket := queue.get()) is not None:
            if not ticket.running.preparing:  # meanwhile given back or cancelled
                continue
            try:
                asked = self._ask(ticket)
                self._busy_since[kind] = (
                    time.monotonic()
                )  # waiting for an unreachable Redis isn't the job's doing
                place = self._living(place, kind)
                self._finish(ticket, self._read(place, asked))
            except _PlaceEnded as ended:
                if place is not None:
                    place.close()
                place = None
                self._give_up(ticket, kind, ended)
            except Exception as error:
                log.exception("intake_failed", job=ticket.running.job_id)
                self._finish(ticket, _failed(f"the job can't be read: {type(error).__name__}: {error}"))
            finally:
                self._busy_since.pop(kind, None)
        if place is not None:
            place.close()

    def _living(self, place: socket.socket | None, kind: bytes) -> socket.socket:
        """The place, or a new one if it has ended; no job is blamed if there is none."""
        if place is not None and not frames.is_gone(place):
            return place
        if place is not None:
            place.close()
        while not self._closing.is_set():
            try:
                place = self._places.fork(kind)
            except (OSError, TokenizerError) as error:
                log.warning("intake_awaited", reason=str(error))
                self._closing.wait(RETRY_S)
            else:
                # For a place that is stopped or swapped out, whose own timer can't end it.
                place.settimeout(self._most_s + GRACE_S)
                return place
        # It is closing: with an empty stage, no job is blamed.
        raise _PlaceEnded("", 0.0)

    def _ask(self, ticket: _Ticket) -> Asked:
        spec = self._spec_of(ticket)
        events, offset = self._log_of(ticket)
        return Asked(ticket.claimed.job_id, spec, self._context_tokens, offset, events)

    def _read(self, place: socket.socket, asked: Asked) -> Prepared:
        started, at = time.monotonic(), ""
        try:
            frames.send(place, asked.to_wire())
            while (message := frames.receive(place)) is not None:
                if (prepared := answer_in(message)) is not None:
                    return prepared
                at = message.decode()
        except OSError:  # it has ended, or is silent
            pass
        raise _PlaceEnded(at, time.monotonic() - started)

    def _spec_of(self, ticket: _Ticket) -> bytes:
        if ticket.claimed.spec is not None:
            return ticket.claimed.spec
        tag, job_id = ticket.running.tag, ticket.running.job_id
        return self._from_redis(ticket.running, lambda: record.spec_in(self._redis, tag, job_id)) or b""

    def _log_of(self, ticket: _Ticket) -> tuple[list[bytes], int]:
        """The job's log, and the number of tokens in it according to the job's record."""
        running, claimed_offset = ticket.running, ticket.claimed.offset
        if not claimed_offset:
            return [], 0

        def read() -> tuple[list[bytes], int]:
            pages = token_log.pages(self._redis, running.tag, running.job_id)
            found = [event for page in pages for event in page]
            offset = record.offset_in(self._redis, running.tag, running.job_id)
            return found, claimed_offset if offset is None else offset

        return self._from_redis(running, read) or ([], claimed_offset)

    def _from_redis(self, running: RunningJob, read: Callable[[], T]) -> T | None:
        """Read something of a job from Redis, once that answers; None if the job needn't be read any more."""
        while running.preparing and not self._closing.is_set():
            try:
                return read()
            except BrokerUnavailable as error:
                log.warning("redis_awaited", job=running.job_id, reason=str(error))
                self._closing.wait(RETRY_S)
        return None

    def _give_up(self, ticket: _Ticket, kind: bytes, ended: _PlaceEnded) -> None:
        job_id = ticket.running.job_id
        if not ended.at and ticket.unread < MOST_UNREAD:  # it had ended before reaching this job
            ticket.unread += 1
            self._closing.wait(RETRY_S)
            (self._quick if kind == QUICK else self._slow).put(ticket)
            return
        ticket.tries += 1
        # A death in the slow lane before its time may be the machine's doing (memory was short): once more.
        if kind == QUICK or (ticket.tries == 1 and ended.took_s < self._most_s):
            log.info("intake_takes_long", job=job_id, at=ended.at, took_s=round(ended.took_s, 3))
            self._slow.put(ticket)
            return
        log.warning("intake_given_up", job=job_id, at=ended.at, took_s=round(ended.took_s, 3))
        what = _DOING.get(ended.at, "reading the job")
        code = FailureCode.TEMPLATE if ended.at == "template" else FailureCode.INVALID
        if ended.took_s < self._most_s:
            reason = f"{what} killed its process twice; intake_memory_mb limits its memory"
        else:
            reason = f"{what} took longer than intake_s={self._most_s:g} allows"
        self._finish(ticket, _failed(reason, code))

    def _finish(self, ticket: _Ticket, prepared: Prepared) -> None:
        if prepared.trace:
            log.error("intake_failed", job=ticket.running.job_id, trace=prepared.trace)
        admission = Admission(ticket.running, prepared)
        try:
            self._complete(admission)
        except GrammarError as error:  # the log's tokens don't follow it, or following them takes too much
            admission.prepared = _failed(f"its answer can't follow its grammar: {error}")
        except ModelError as error:  # of its adapter
            admission.prepared = _failed(str(error))
        except Exception as error:
            log.exception("intake_failed", job=ticket.running.job_id)
            admission.prepared = _failed(f"the job can't be run: {type(error).__name__}: {error}")
        self._done.append(admission)
        self.wake()

    def _complete(self, admission: Admission) -> None:
        prepared, running = admission.prepared, admission.running
        if prepared.fields is None:
            return
        job = admission.job = WireJob.model_validate({**prepared.fields, "prompt": _READ})
        replays = [prepared.replay, *prepared.others]
        shown = shown_by(prepared.answer_format)
        admission.texts = [
            TextStream(self.tokenizer, job.stop, job.min_tokens, replay.position, shown=shown)
            for replay in replays
        ]
        if prepared.error is not None or prepared.told is not None:
            return
        if requests := self._requests.of(running.job_id, job, prepared):
            admission.request, *admission.others = requests


_READ = "(read at intake)"
"""The prompt of a job whose prompt is gone."""

_DOING = {
    "template": "rendering the chat template",
    "tokens": "tokenising the prompt",
    "grammar": "compiling the grammar of its answer",
    "log": "reading its token log",
}


def _failed(message: str, code: FailureCode = FailureCode.INVALID) -> Prepared:
    return Prepared(error=refusal(code, message))
