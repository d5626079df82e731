"""The jobs on this engine: at intake, generating, ended but not yet confirmed by Redis."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import structlog

from ...engine import EngineProtocol, FinishReason, Progress, RequestError
from ...schemas.events import FailureCode, FinishReasonName, JobState, PromptLogprob
from ...schemas.scripts import Advance, AdvanceStatus, ReleaseReason
from ..metrics import Metrics
from .estimates import Estimates
from .flush import Unwritable
from .host_notices import HostNotices
from .intake.lanes import Admission
from .intake.refusal import refusal
from .running_job import RunningJob, first_of_prompt, wire_logprobs
from .text import TokenText

SAID_AGAIN_S = 10.0
"""How often it is logged that Redis refuses jobs' writes."""

log = structlog.get_logger(__name__)

P = ParamSpec("P")
Subject = TypeVar("Subject", RunningJob, Admission)


_FIELDS = {
    "output_ids": "token log",
    "pooling": "embed.pooling",
    "dimensions": "embed.dimensions",
    "score": "document",
}
"""What the job's author calls the engine's fields."""


def alone(
    act: Callable[Concatenate["Roster", Subject, P], None],
) -> Callable[Concatenate["Roster", Subject, P], None]:
    """Ensures that a failure over one job ends only that job."""

    @wraps(act)
    def guarded(roster: "Roster", subject: Subject, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            act(roster, subject, *args, **kwargs)
        except Exception as error:
            roster._broke(_job_of(subject), error)

    return guarded


def _job_of(subject: RunningJob | Admission) -> RunningJob:
    return subject.running if isinstance(subject, Admission) else subject


@dataclass(slots=True)
class Roster:
    """Keeps the engine's sequences and the queue's jobs in sync.

    Attributes:
        jobs: the jobs by id; one that has ended stays until Redis confirms its end.
        leaving: jobs to give back, and why; the engine is done with them.
        notices: tells the host.
        urgent: whether there is something that readers should not have to wait for: a first token or an end.
    """

    engine: EngineProtocol
    tokenizer: TokenText
    metrics: Metrics
    estimates: Estimates = field(default_factory=Estimates)
    jobs: dict[str, RunningJob] = field(default_factory=dict)
    leaving: dict[RunningJob, ReleaseReason] = field(default_factory=dict)
    notices: HostNotices = field(default_factory=HostNotices)
    urgent: bool = False
    _refused: tuple[str, float] = ("", 0.0)

    def __len__(self) -> int:
        return len(self.jobs) + len(self.leaving)

    @property
    def active(self) -> Iterator[RunningJob]:
        """The jobs that have not ended."""
        return (running for running in self.jobs.values() if not running.ended)

    @property
    def on_trial(self) -> bool:
        """Whether a suspect is being tried here; it stays alone until its log is past what makes it one."""
        return any(running.is_suspect for running in self.jobs.values())

    @property
    def free_slots(self) -> int:
        """How many jobs can be claimed: what the engine accepts, less those at intake."""
        coming = sum(
            len(running.choices) if running.preparing else len(running.waiting)
            for running in self.jobs.values()
        )
        return max(0, self.engine.free_slots - coming)

    @property
    def free_tokens(self) -> int:
        """How many KV tokens can be claimed: those of the engine, less what jobs at intake will hold."""
        # The engine does not know these yet. Without them the next claim would promise their pages twice.
        coming = sum(
            running.cost_tokens if running.preparing else running.waiting_tokens(self.engine.page_size)
            for running in self.jobs.values()
        )
        return max(0, self.engine.free_tokens - coming)

    def held_tokens(self, job_id: str) -> int:
        """The KV tokens that a job holds, or will hold when it comes from intake."""
        running = self.jobs[job_id]
        if running.preparing:
            return running.cost_tokens
        held = [self.engine.held_tokens(running.request_id(choice)) for choice in running.choices]
        # The engine leaves out pages that several hold; those of their prompt these hold together.
        size = self.engine.page_size
        shared = running.prompt_tokens // size * size if sum(map(bool, held)) > 1 else 0
        return sum(held) + shared + running.waiting_tokens(size)

    def hold(self, running: RunningJob) -> bool:
        """Keep a claimed job while intake reads it; return False if it was here already."""
        running.known = True
        known = self.jobs.get(running.job_id)
        if known is not None:
            if known.fence == running.fence:  # listed again after a lost reply
                return False
            # The same job under another fence: it was lost in between, and what is here of it is stale.
            self.drop(known)
        self.jobs[running.job_id] = running
        return True

    @alone
    def admit(self, admission: Admission) -> None:
        """Start a job that intake has read, or keep it to finish it or give it back with the next flush."""
        running, request, prepared = admission.running, admission.request, admission.prepared
        if self.jobs.get(running.job_id) is not running or not running.preparing:
            return  # given back, cancelled or lost meanwhile
        running.preparing = False
        running.take_in(admission.job, admission.texts, prepared)
        if prepared.prompt_tokens:
            self.estimates.note_prompt(prepared.prompt_tokens, prepared.prompt_bytes)
        if request is not None and (self._overflows(running) or self._may_be_for_a_larger_one(running)):
            self.give_back(running, ReleaseReason.OVERFLOW)
            return
        self.notices.started(running)
        if prepared.error is not None:
            self.fail(running, prepared.error.code, prepared.error.message)
            return
        if running.job is not None and running.job.prompt_logprobs is not None and request is not None:
            # The prompt's first token has no log-probability; a continuation's has one.
            behind = prepared.continuation_tokens
            first = [] if behind else [first_of_prompt(self.tokenizer, prepared.prompt_ids[0])]
            running.prompt_logprobs, running.to_score = first, behind or running.prompt_tokens
        if request is None:  # its last worker had written all but the end
            running.end(JobState.SUCCEEDED, "stop", tail=False)
            self.urgent = True
            return
        try:
            self.engine.submit(request)
        except RequestError as error:  # the error names the engine's fields; the job's author knows the job's
            asked = _FIELDS | {"prompt_ids": prepared.prompt_field}
            self.fail(running, FailureCode.INVALID, f"{asked.get(error.field, error.field)}: {error.reason}")
            return
        running.waiting, running.first_request = admission.others, request.id
        self.metrics.admitted(running.waited_s, running.prompt_tokens, resumed=running.resumed_at > 0)

    def _overflows(self, running: RunningJob) -> bool:
        # The claim used an estimate: a job that doesn't fit now, but would alone, is left to a worker with
        # room.
        needed = running.prompt_tokens + running.tokens + len(running.choices)
        return needed > self.engine.free_tokens and needed <= self.engine.capacity_tokens

    def _may_be_for_a_larger_one(self, running: RunningJob) -> bool:
        """Whether it was claimed on an estimate and might get further on a larger worker, if there is one."""
        if running.counted or running.job is None:
            return False
        # Its full length can't be had here: it goes back once, in case there is a larger worker.
        most = min(running.prompt_tokens + running.job.max_tokens, self.engine.model_info.context_tokens)
        return most > self.engine.capacity_tokens

    def take(self, progress: Progress) -> None:
        """Take new tokens from the engine."""
        try:  # like `alone`, which is slower: this is called for every token
            self._take(progress)
        except Exception as error:
            self._broke(self.jobs.get(progress.id.partition("#")[0]), error)

    def _take(self, progress: Progress) -> None:
        job_id, _, number = progress.id.partition("#")
        running = self.jobs.get(job_id)
        if running is None or running.ended:
            return
        choice = running.choices[int(number or 0)]
        now = time.monotonic()
        if progress.token_ids:
            # Published at once, so that if the next token kills the worker, the log already has this one.
            self.urgent = self.urgent or running.is_suspect
            self._note_tokens(running, len(progress.token_ids), now)
        if running.first_request == progress.id:  # what its other answers find is this one's prompt
            running.cached_tokens = progress.cached_tokens or running.cached_tokens
        logprobs = wire_logprobs(self.tokenizer, progress.logprobs) if progress.logprobs else []
        if progress.prompt_logprobs and running.prompt_logprobs is not None:
            # Checked here, a step's at a time: all together, with the result, they would hold the engine up.
            entries = wire_logprobs(self.tokenizer, progress.prompt_logprobs)
            running.prompt_logprobs += map(PromptLogprob.model_validate, entries)
        if progress.finish_reason is FinishReason.ERROR:
            self.fail(running, FailureCode.ENGINE, progress.error)
            return
        if progress.vector is not None or progress.score is not None:
            running.embedding = None if progress.vector is None else progress.vector.tolist()
            running.score = progress.score
            self._succeed(running, "stop")
            return
        stopped_by_token = progress.finish_reason is FinishReason.STOP
        if running.add(choice, progress.token_ids, logprobs, silence_last=stopped_by_token):
            self.engine.cancel(progress.id)
            self._finish(running, choice.number, "stop", tail=False, written=True)
        elif progress.finish_reason is not None and choice.ended_by_text:
            self._finish(running, choice.number, "stop", tail=False, written=False)
        elif progress.finish_reason is not None:
            reason: FinishReasonName = "stop" if stopped_by_token else "length"
            self._finish(running, choice.number, reason, tail=True, written=bool(progress.token_ids))
        if running.waiting and (progress.token_ids or progress.finish_reason is not None):
            self._start_others(running)

    def _start_others(self, running: RunningJob) -> None:
        """Start a job's other answers: the first has a token, so the pages of its prompt can be found."""
        others, running.waiting = running.waiting, []
        for request in others:
            self.engine.submit(request)

    def _finish(
        self, running: RunningJob, number: int, reason: FinishReasonName, *, tail: bool, written: bool
    ) -> None:
        """End an answer and, with the last one, the job; the arguments are those of `RunningJob.finish`."""
        self.urgent = True
        if len(running.choices) == 1:
            self._succeed(running, reason, tail=tail)
        elif running.finish(number, reason, tail=tail, written=written):
            self._succeed(running, running.finish_reasons[0])

    def _note_tokens(self, running: RunningJob, count: int, now: float) -> None:
        if running.last_token_at is None:
            self.urgent = True
            running.first_token_at = now
            if not running.resumed_at:
                self.metrics.first_token(running.waited_s + now - running.claimed_at)
        else:
            self.metrics.inter_token(now - running.last_token_at, count)
        running.last_token_at = now

    def _succeed(self, running: RunningJob, reason: FinishReasonName, *, tail: bool = True) -> None:
        if running.prompt_logprobs is not None and len(running.prompt_logprobs) != running.to_score:
            self.fail(running, FailureCode.ENGINE, "prompt_logprobs: this engine doesn't give them")
            return
        running.end(JobState.SUCCEEDED, reason, tail=tail)
        self.urgent = True
        if running.job is not None and running.embedding is None and running.score is None:
            self.estimates.note_output(running.tokens, running.job.max_tokens * len(running.choices))

    def fail(self, running: RunningJob, code: str, message: str) -> None:
        """End one job as failed, and affect nothing else."""
        self._stop(running)
        running.end(JobState.FAILED, "error", refusal(code, message))
        self.urgent = True

    def _stop(self, running: RunningJob) -> None:
        """Take all of a job's answers out of the engine."""
        running.waiting = []
        for choice in running.choices:
            self.engine.cancel(running.request_id(choice))

    def _broke(self, running: RunningJob | None, error: Exception) -> None:
        """Handle an unforeseen failure over a job: it fails, or is left to another worker."""
        log.error("job_broke", job=running and running.job_id, exc_info=error)
        if running is None:
            return
        if running.broken:  # its end can't be written either
            self.drop(running)
            return
        # Without what may have been the cause: the end that says so must be writable.
        running.broken = True
        for choice in running.choices:
            choice.logprobs, choice.text = None, None
        running.prompt_logprobs = None
        self.leaving.pop(running, None)
        self.jobs[running.job_id] = running
        what = f"{type(error).__name__}: {error}"
        self.fail(running, FailureCode.ENGINE, f"the worker failed on this job: {what}")

    def give_back(self, running: RunningJob, reason: ReleaseReason) -> None:
        """Stop a job here; its progress goes back to the queue with the next flush."""
        self._stop(running)
        running.preparing = False
        running.seal()
        del self.jobs[running.job_id]
        # Out of `jobs` at once, so that a later claim of the same job is another entry.
        self.leaving[running] = reason
        self.urgent = True

    def drop(self, running: RunningJob) -> None:
        """Forget a job that no longer belongs to this worker."""
        running.preparing = False
        reason = self.leaving.pop(running, None)
        if self.jobs.get(running.job_id) is running:  # and not a later claim of the same job
            self._stop(running)
            del self.jobs[running.job_id]
        elif reason is None:
            return
        self.notices.left(running, reason.value if reason else "lost")

    # Redis's answers --------------------------------------------------------------------------------------

    @alone
    def advanced(self, running: RunningJob, sent: int, answer: Advance | Exception) -> None:
        """Take the answer to an `advance` up to `sent`."""
        if isinstance(answer, Unwritable):
            raise answer
        if isinstance(answer, Exception):  # refused for now (no memory, say): the next flush sends it again
            self._note_refusal(running, answer)
            return
        match answer.status:
            case AdvanceStatus.OK | AdvanceStatus.CANCELLED | AdvanceStatus.EXPIRED:
                if sent > running.written:
                    # Past the offset where its last worker died it is no suspect any more, and others may
                    # join it: that is worth an exchange at once.
                    tried = running.is_suspect
                    running.written, running.checkpointed_at = sent, time.monotonic()
                    self.urgent = self.urgent or (tried and not running.is_suspect)
                if answer.status is not AdvanceStatus.OK and not running.ended:
                    self._interrupt(running, answer.status)
            case AdvanceStatus.BEHIND:
                self._fall_back(running, answer.log_offset)
            case AdvanceStatus.DAMAGED:
                self.fail(running, FailureCode.ENGINE, "its keys in Redis were changed from outside")
            case _:
                self._lost(running, answer.status)

    def _note_refusal(self, running: RunningJob, answer: Exception) -> None:
        """Log it, but not for each of many jobs that every flush retries, many times a second."""
        now, reason = time.monotonic(), str(answer)
        if reason != self._refused[0] or now - self._refused[1] >= SAID_AGAIN_S:
            log.warning("write_refused", job=running.job_id, reason=reason)
            self._refused = reason, now

    def _interrupt(self, running: RunningJob, status: AdvanceStatus) -> None:
        if running.preparing and running.resumed_at:  # its text is not here yet: the queue ends it with that
            self.give_back(running, ReleaseReason.DRAIN)
            return
        self._stop(running)
        if status is AdvanceStatus.CANCELLED:
            running.end(JobState.CANCELLED, "cancelled")
        else:
            running.end(JobState.EXPIRED, "expired")
        self.urgent = True

    def _fall_back(self, running: RunningJob, log_offset: int) -> None:
        log.warning("log_behind", job=running.job_id, written=running.written, log_offset=log_offset)
        # Redis lost the log's tail (a failover, say): what is missing is sent again from here.
        running.written = min(log_offset, running.tokens)

    def _lost(self, running: RunningJob, status: AdvanceStatus) -> None:
        log.warning("job_lost", job=running.job_id, status=status.value, written=running.written)
        self.metrics.fenced()
        self.drop(running)

    @alone
    def finished(self, running: RunningJob, answer: Advance | Exception) -> None:
        """Take the answer to a `finish`."""
        if (taken := self._unless_sent_again(running, answer)) is None:
            return
        if taken.status in {AdvanceStatus.OK, AdvanceStatus.ALREADY}:
            self.jobs.pop(running.job_id, None)
            assert running.ended is not None
            self.notices.left(running, running.ended.value)
            took_s = running.waited_s + time.monotonic() - running.claimed_at
            self.metrics.ended(running.ended.value, running.finish_reason, took_s)
        else:
            self._lost(running, taken.status)

    @alone
    def released(self, running: RunningJob, answer: Advance | Exception) -> None:
        """Take the answer to a `release`; a job that no longer belongs to this worker needs none."""
        if self._unless_sent_again(running, answer) is not None:
            self.drop(running)

    def _unless_sent_again(self, running: RunningJob, answer: Advance | Exception) -> Advance | None:
        """The answer to an end; None if it is sent again, being refused for now or behind the log."""
        if isinstance(answer, Unwritable):
            raise answer
        if isinstance(answer, Exception):
            self._note_refusal(running, answer)
            return None
        if answer.status is AdvanceStatus.BEHIND:
            self._fall_back(running, answer.log_offset)
            return None
        return answer
