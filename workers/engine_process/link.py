"""Decides when to exchange with the queue, and what: one exchange at a time, beside the engine's steps."""

import random
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from ...schemas.errors import BrokerUnavailable
from ...schemas.job import JobClass
from ...schemas.keys import Tag
from ...schemas.scripts import ClaimReply, ClaimRequest, ReleaseReason
from ..ended_jobs import log_ended
from ..metrics import Metrics
from ..settings import WorkerSettings, socket_timeout_s
from .flush import Flush, FlushReply, Queue
from .preemption import classes_above, more_urgent, room_made, who_gives_way
from .roster import Roster
from .running_job import RunningJob

CHECKPOINT_S = 1.0
"""How often a job with `stream=False` is written."""

RENEWALS_A_LEASE = 8
"""Several lost round trips in a row don't cost the lease. Also limits how late a cancellation is noticed."""

PATIENCE_S = 10.0
"""How long a job that doesn't fit lets other queues' jobs pass."""

TRIES = 2
"""How often redis-py retries an exchange on a broken connection."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Outage:
    """The state while Redis doesn't answer."""

    reason: str
    retry_at: float = 0.0
    tries: int = 0

    def back_off(self) -> None:
        """Plan the next try, after a jittered pause that doubles up to a second."""
        self.tries += 1
        self.retry_at = time.monotonic() + min(1.0, 0.05 * 2**self.tries) * random.uniform(0.5, 1.0)


class Link:
    """Exchanges flushes with the queue, and passes the answers to the roster.

    A flush's content is fixed when it is launched, and `written` only moves when its answer is collected.
    After a failed exchange the same is sent again, which every script allows.

    Attributes:
        closing: whether nothing more is claimed; what a lost claim took is still asked for.
    """

    def __init__(
        self,
        queue: Queue,
        roster: Roster,
        settings: WorkerSettings,
        metrics: Metrics,
        *,
        facts: Callable[[], Mapping[str, str | int]],
        wake: Callable[[], None],
        drain: Callable[[float], None],
    ) -> None:
        self._queue, self._roster, self._settings, self._metrics = queue, roster, settings, metrics
        self._nonce = secrets.token_hex(4)  # no two incarnations of a worker share a fence
        self._facts, self._wake, self._drain = facts, wake, drain
        self.closing = False
        # One thread, so exchanges can't overtake each other: a log grows in order.
        self._io = ThreadPoolExecutor(max_workers=1, thread_name_prefix="headrace-io")
        self._flight: Future[FlushReply] | None = None
        self._outage: Outage | None = None
        # A lapsed lease is thus found within a quarter of its length, by whichever worker looks first.
        self._upkeep_s = min(2.5, settings.lease_s / 4)
        self._contact = time.monotonic()
        self._refusal = ""
        self._flushed = self._published = self._beaten = self._upkept = 0.0
        self._turn = 0
        self._sent = Flush()
        self._claim_lost: Tag | None = None
        self._blocked: tuple[Tag, JobClass, int] | None = None
        self._other_models: set[str] = set()
        self._held: tuple[Tag, JobClass, float] | None = (
            None  # the queue whose job waits for room here, and since when
        )
        self._more: Tag | None = None  # queues whose last claim looked at as much as it may
        self._trial_wanted: Tag | None = None

    @property
    def busy(self) -> bool:
        """Whether an exchange is in flight."""
        return self._flight is not None

    @property
    def cut_off(self) -> bool:
        """Whether every lease may have lapsed, by this process's own clock."""
        return self._outage is not None and time.monotonic() - self._contact > self._settings.lease_s

    @property
    def trouble(self) -> str:
        """Why Redis doesn't answer, or refuses this worker's heartbeat; empty if all is well."""
        return self._outage.reason if self._outage is not None else self._refusal

    @property
    def claim_lost(self) -> bool:
        """Whether a claim whose reply was lost may have taken jobs that nobody here knows of."""
        return self._claim_lost is not None

    @property
    def is_out(self) -> bool:
        """Whether Redis isn't answering."""
        return self._outage is not None

    def contact_s(self) -> float:
        """How long ago Redis last answered an exchange."""
        return time.monotonic() - self._contact

    def late_s(self) -> float:
        """How long the exchange in flight has taken, beyond what an unreachable Redis explains."""
        if self._flight is None:
            return 0.0
        # What it may take when all goes wrong as it is meant to: the wait for the bell, then every try's
        # timeout.
        patience_s = self._sent.wait_s + TRIES * socket_timeout_s(self._settings.lease_s)
        return max(0.0, time.monotonic() - self._flushed - patience_s)

    def next_at(self) -> float:
        """When the next exchange is due, by the monotonic clock."""
        if self._outage is not None:
            return self._outage.retry_at
        # Without a job the exchange is sent at once: it waits in Redis, at the bell.
        if self._roster.urgent or self._more is not None or not self._roster:
            return 0.0
        return self._flushed + self._settings.flush_s

    def launch(self) -> None:
        """Start an exchange if one is due and none is in flight."""
        now = time.monotonic()
        if self._flight is not None or now < self.next_at() or (self.closing and not self._roster):
            return
        flush = self._compose(now)
        self._roster.urgent = False
        self._flushed = now
        self._sent, self._flight = flush, self._io.submit(self._queue.exchange, flush)
        self._flight.add_done_callback(lambda _: self._wake())

    def collect(self, *, wait_s: float | None = 0.0) -> None:
        """Take the answers of a finished exchange, waiting for it for up to `wait_s`."""
        if self._flight is None or (wait_s == 0.0 and not self._flight.done()):
            return
        try:
            reply = self._flight.result(timeout=wait_s)
        except BrokerUnavailable as error:
            self._note_lost_claim()
            self._broke(error)
        else:
            self._reached()
            self.apply(reply)
        self._flight = None

    def exchange(self, flush: Flush) -> None:
        """Do one exchange at once, for the hand-over; it also asks what a lost claim took.

        Raises:
            BrokerUnavailable: Redis could not be reached, or doesn't say what the claim took.
        """
        flush.claim = self._claim()
        self._sent = flush
        try:
            reply = self._queue.exchange(flush)
        except BrokerUnavailable:
            self._note_lost_claim()
            raise
        self._reached()
        self.apply(reply)
        if reply.claim_error is not None:
            raise BrokerUnavailable(str(reply.claim_error)) from reply.claim_error

    def _note_lost_claim(self) -> None:
        if self._sent.claim is not None:
            self._claim_lost = self._sent.claim[0]

    def close(self) -> None:
        """Stop the I/O thread, abandoning an exchange in flight."""
        self._io.shutdown(wait=False, cancel_futures=True)

    def apply(self, reply: FlushReply) -> None:
        """Pass Redis's answers to the roster."""
        for running, sent, answer in reply.advanced:
            self._roster.advanced(running, sent, answer)
        for running, ended in reply.finished:
            self._roster.finished(running, ended)
        for running, given_back in reply.released:
            self._roster.released(running, given_back)
        for running, claimed in reply.jobs:
            # The I/O thread has already sent a plain claim's jobs to intake; of those listed again, only the
            # ones that weren't known here still have to go there.
            if self._roster.hold(running) and self._sent.claim is not None and self._sent.claim[1].resync:
                self._queue.intake.put(running, claimed)
        if reply.claimed is not None and self._sent.claim is not None:
            self._note_claim(self._sent.claim[0], reply.claimed)
        if reply.trial is not None:
            log.info("gives_way_to_suspects", jobs=len(self._roster.jobs))
            self._trial_wanted = reply.trial
        if reply.claim_error is not None:
            log.warning("claim_refused", reason=str(reply.claim_error))
            self._note_lost_claim()  # it may have failed with some jobs taken
        log_ended(reply.ended)
        if reply.upkeep is not None:
            self._metrics.queued(reply.upkeep.queued)
            self._metrics.model_changed(self._settings.on_model_change, reply.upkeep.model_changed)
            if any(reply.upkeep[:-1]):
                log.info("upkeep", **reply.upkeep._asdict())
        self._note_other_models(reply.other_models)
        if reply.beaten is not None:
            self._refusal = reply.beaten
        if reply.drain_s is not None:
            self._drain(reply.drain_s)
        self._metrics.flush(reply.took_s, claimed=len(reply.jobs))

    def _note_claim(self, tag: Tag, claimed: ClaimReply) -> None:
        self._more = tag if claimed.more else None
        if claimed.suspect_waits:
            self._trial_wanted = tag
        if claimed.blocked_class is not None:
            self._blocked = tag, claimed.blocked_class, claimed.blocked_tokens
        # An example: a job of queue A needs 40 pages and 30 are free. A is `blocked` for the next claim,
        # which jobs may give way to; if none do, it is `held`, and after PATIENCE_S other queues' jobs stop
        # taking the pages that become free.
        waits = self._held is not None and self._held[0] == tag
        if claimed.blocked_class is not None and not claimed.jobs:
            since = self._held[2] if self._held is not None and waits else time.monotonic()
            self._held = tag, claimed.blocked_class, since
        elif waits:
            self._held = None

    def _note_other_models(self, fingerprints: set[str]) -> None:
        for fingerprint in sorted(fingerprints - self._other_models):
            log.warning("another_model", ours=self._queue.fingerprint, theirs=fingerprint)
        self._other_models |= fingerprints

    def _reached(self) -> None:
        self._contact = time.monotonic()
        if self._outage is not None:
            log.info("redis_back", tries=self._outage.tries)
            self._outage = None

    def _broke(self, error: BrokerUnavailable) -> None:
        if self._outage is None:
            log.warning("redis_lost", reason=str(error))
            self._metrics.outage()
            self._outage = Outage(str(error))
        self._outage.back_off()

    # What to report ---------------------------------------------------------------------------------------

    def _compose(self, now: float) -> Flush:
        self._make_room()
        flush = Flush(releases=list(self._roster.leaving.items()))
        # Between two regular flushes an urgent one carries ends, first tokens and suspects' tokens only.
        # Otherwise each new job's first token would publish everybody's next one, in ever smaller chunks.
        regular = now - self._published >= self._settings.flush_s
        if regular:
            self._published = now
        for running in self._roster.jobs.values():
            if running.ended:
                flush.finishes.append(running)
            elif running.unwritten and self._publish_due(running, now, regular=regular):
                flush.advances.append((running, running.seal()))
            # Nothing to publish: an advance to where the log is already only renews the lease.
            elif now - running.renewed_at > self._settings.lease_s / RENEWALS_A_LEASE:
                flush.advances.append((running, running.written))
        for running, _ in flush.advances:
            running.renewed_at = now
        try_next = self._trial_wanted is not None
        flush.claim = self._claim()
        if now - self._beaten >= self._settings.heartbeat_s:
            self._beaten = now
            flush.facts = self._facts()
            if self._roster:
                can_not = self.closing or self._roster.on_trial or try_next
                flush.trials = () if can_not else self._settings.classes
                flush.tokens_per_byte = self._roster.estimates.prompt_ratio
        if now >= self._upkept + self._upkeep_s:
            # Jittered, so that many workers spread over the interval instead of all looking at once.
            self._upkept = now + self._upkeep_s * random.uniform(-0.2, 0.2)
            flush.upkeep = True
        looks_on = try_next or self._more is not None
        if not self._roster and self._outage is None and not looks_on and not self.closing:
            # Nothing runs: wait at the bell, but not beyond what is due next.
            flush.wait_s = min(self._settings.heartbeat_s, self._upkeep_s)
        return flush

    def _publish_due(self, running: RunningJob, now: float, *, regular: bool) -> bool:
        """Whether to publish a job now: between regular flushes only its first tokens here."""
        if running.is_suspect:  # if it kills its worker, the log must already have its tokens
            return True
        if running.job is not None and not running.job.stream:
            return now - running.checkpointed_at >= CHECKPOINT_S
        return regular or running.written == running.resumed_at

    def _make_room(self) -> None:
        """Stop jobs that give way: all to a suspect, which is tried alone, or some to a more urgent job.

        The job that they give way to is claimed in the flush that gives them back.
        """
        if self._trial_wanted is not None and not self._roster.on_trial and not self.closing:
            for running in list(self._roster.active):
                self._roster.give_back(running, ReleaseReason.TRIAL)
        if self._blocked is None:
            return
        _, job_class, cost_tokens = self._blocked
        victims = who_gives_way(self._roster.active, self._roster, job_class, cost_tokens)
        for running in victims:
            log.info("preempted", job=running.job_id, by_class=job_class.value)
            self._roster.give_back(running, ReleaseReason.PREEMPTED)
        if not victims:
            self._blocked = None  # it waits for its turn, and other queues must not wait for it

    def _claim(self) -> tuple[Tag, ClaimRequest] | None:
        engine, estimates = self._roster.engine, self._roster.estimates
        slots, budget = self._roster.free_slots, self._roster.free_tokens
        classes = self._settings.classes
        resync = self._claim_lost is not None
        # The claim takes nothing then; it says which job is blocked, for `_make_room`.
        if slots < 1 or budget < 1:  # only a job that others here would give way to matters
            above = classes_above(self._roster.active)
            classes = tuple(job_class for job_class in classes if job_class in above)
        more, self._more = self._more, None
        # A job that overflows here is on its way back, and would be claimed again in the same exchange.
        overflows = ReleaseReason.OVERFLOW in self._roster.leaving.values()
        alone = not self._roster.jobs
        on_trial = self._roster.on_trial or (self._trial_wanted is not None and not alone)
        if not resync and (self.closing or overflows or not classes or on_trial):
            return None
        tag, classes = self._next_queue(classes, more)
        request = ClaimRequest(
            worker=self._queue.worker_id,
            nonce=self._nonce,
            lease_ms=self._queue.lease_ms,
            budget_tokens=budget,
            slots=slots,
            page_size=engine.page_size,
            capacity_tokens=engine.capacity_tokens,
            output_ratio=estimates.output_ratio,
            tokens_per_byte=estimates.prompt_ratio,
            suspect_slots=int(alone),
            classes=classes,
            resync=resync,
            company=len(self._queue.tags) > 1,
            context_tokens=engine.model_info.context_tokens,
            room_tokens=room_made(self._roster.active, self._roster),
            pool_tokens=engine.stats().pages_total * engine.page_size,
            fingerprint=self._queue.fingerprint,
        )
        self._claim_lost = self._blocked = None
        if not resync:
            self._trial_wanted = None
        return tag, request

    def _next_queue(
        self, classes: tuple[JobClass, ...], more: Tag | None
    ) -> tuple[Tag, tuple[JobClass, ...]]:
        """The queue to claim from, in turn unless one has unfinished business, and the `classes` to serve.

        While a job has long been waiting for room here, other queues' jobs are taken only if they are more
        urgent.
        """
        blocked = self._blocked and self._blocked[0]
        for tag in (self._claim_lost, self._trial_wanted, blocked, more):
            if tag is not None:
                return tag, classes
        self._turn = (self._turn + 1) % len(self._queue.tags)
        tag = self._queue.tags[self._turn]
        if self._held is None or self._held[0] == tag or time.monotonic() - self._held[2] < PATIENCE_S:
            return tag, classes
        above = tuple(job_class for job_class in classes if more_urgent(job_class, self._held[1]))
        # Nothing is more urgent than the waiting job, so its own queue is asked again.
        return (tag, above) if above else (self._held[0], classes)
