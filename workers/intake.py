"""From a claimed job to an engine request: read, tokenise, check. What can't be run fails alone."""

import hashlib
import time
from dataclasses import dataclass

from ..engine import ModelInfo, Request, SamplingParams
from ..schemas.errors import InvalidJob
from ..schemas.events import FailureCode, JobError, JobState
from ..schemas.job import Job, JobClass
from ..schemas.keys import Tag
from ..schemas.scripts import ClaimedJob
from ..schemas.wire import WireJob
from .running_job import RunningJob
from .text import ChatTemplateError, TextStream, Tokenizer

_PRIORITY = {job_class: priority for priority, job_class in enumerate(JobClass)}


class _Refused(Exception):
    def __init__(self, code: FailureCode, message: str) -> None:
        super().__init__(message)
        self.error = JobError(code=code, message=message)


@dataclass(slots=True)
class Admission:
    """A claimed job, and what to run for it; no request when it has ended already (see `running.ended`)."""

    running: RunningJob
    request: Request | None


@dataclass(slots=True, frozen=True)
class Intake:
    """Turns claimed jobs into engine requests for one model."""

    tokenizer: Tokenizer
    model: ModelInfo

    def admit(self, tag: Tag, claimed: ClaimedJob) -> Admission:
        """The job ready to run, resumed where its log ends; or ended with the reason why it can't run."""
        now = time.monotonic()
        running = RunningJob(
            tag=tag,
            job_id=claimed.job_id,
            fence=claimed.fence,
            job=None,
            text=None,
            claimed_at=now,
            waited_s=claimed.waited_ms / 1000,
            attempts=claimed.attempts,
            suspect_until=claimed.suspect_until,
            counted=claimed.prompt_tokens > 0,
            checkpointed_at=now,
        )
        try:
            request = self._prepare(running, claimed)
        except _Refused as refused:
            running.end(JobState.FAILED, "error", refused.error)
            return Admission(running, None)
        return Admission(running, None if running.ended else request)

    def _prepare(self, running: RunningJob, claimed: ClaimedJob) -> Request:
        self._resume(running, claimed)
        try:
            job = WireJob.from_wire(claimed.spec)
        except InvalidJob as error:
            raise _Refused(FailureCode.INVALID, f"the job's record can't be read: {error}") from None
        running.job = job
        prompt_ids = self._prompt_ids(job)
        running.prompt_tokens = len(prompt_ids)
        if len(prompt_ids) >= self.model.context_tokens:
            raise _Refused(
                FailureCode.CONTEXT_LENGTH,
                f"the prompt has {len(prompt_ids)} tokens; {job.model} takes at most "
                f"{self.model.context_tokens}, prompt and output together",
            )
        running.text = TextStream(self.tokenizer, job.stop, job.min_tokens)
        running.logprobs = None if job.logprobs is None else []
        self._replay(running, claimed)
        return Request(
            id=claimed.job_id,
            prompt_ids=prompt_ids,
            params=_sampling(job, claimed.job_id),
            output_ids=list(running.token_ids),
            priority=_PRIORITY[job.job_class],
            cache_salt=job.tenant,
        )

    def _resume(self, running: RunningJob, claimed: ClaimedJob) -> None:
        logged = [token_id for chunk in claimed.log for token_id in chunk.token_ids]
        if len(logged) != claimed.offset:
            raise _Refused(
                FailureCode.INVALID,
                f"its token log holds {len(logged)} tokens where {claimed.offset} were written",
            )
        running.written = running.resumed_at = claimed.offset

    def _replay(self, running: RunningJob, claimed: ClaimedJob) -> None:
        for chunk in claimed.log:
            logprobs = [entry.model_dump() for entry in chunk.logprobs or ()]
            if running.add(chunk.token_ids, logprobs):
                running.end(JobState.SUCCEEDED, "stop", tail=False)
                return

    def _prompt_ids(self, job: Job) -> list[int]:
        if job.prompt_token_ids is not None:
            return list(job.prompt_token_ids)
        if job.prompt is not None:
            prompt_ids = self.tokenizer.encode(job.prompt)
        else:
            assert job.messages is not None
            messages = [message.model_dump(exclude_none=True) for message in job.messages]
            try:
                prompt_ids = self.tokenizer.chat(messages, tools=list(job.tools) if job.tools else None)
            except ChatTemplateError as error:
                raise _Refused(FailureCode.TEMPLATE, str(error)) from None
        if not prompt_ids:
            raise _Refused(FailureCode.INVALID, "the prompt has no tokens")
        return prompt_ids


def _sampling(job: Job, job_id: str) -> SamplingParams:
    return SamplingParams(
        max_tokens=job.max_tokens,
        min_tokens=job.min_tokens,
        temperature=job.temperature,
        top_k=job.top_k,
        top_p=job.top_p,
        min_p=job.min_p,
        presence_penalty=job.presence_penalty,
        frequency_penalty=job.frequency_penalty,
        repetition_penalty=job.repetition_penalty,
        logit_bias=dict(job.logit_bias),
        seed=_seed_of(job_id) if job.seed is None else job.seed,
        stop_token_ids=job.stop_token_ids,
        ignore_eos=job.ignore_eos,
        logprobs=job.logprobs,
    )


def _seed_of(job_id: str) -> int:
    """A seed that every worker of this job agrees on."""
    return int.from_bytes(hashlib.blake2b(job_id.encode(), digest_size=8).digest()) >> 1
