"""Accept a job."""

import hashlib
import json
from typing import Any

from ..errors import IdempotencyConflict, InvalidJob, QueueFull, RateLimited
from ..job import Job
from ..keys import Tag
from ..redis.call import Call, script, text
from ..settings.queue import QueueSettings
from ..wire import WireJob


def enqueue(
    tag: Tag, job_id: str, job: Job, settings: QueueSettings, *, retry_of: str = ""
) -> Call[str | None]:
    """Accept `job` under `job_id`; return the id, or the earlier one for a repeated idempotent request.

    None is returned if the model was not chosen and its name is an alias; nothing was enqueued then.

    `retry_of` is the ended job that this one repeats. Sending the same call again is safe: the first reply
    may have been lost.

    Raises:
        InvalidJob: the job is larger than `max_job_bytes`, asks for more answers or log-probabilities than
            the limits allow, or can't be written (raised at once).
        QueueFull: the lane or the tenant is at its limit (raised by the reply, like the next two).
        RateLimited: the tenant has used up this minute's requests or tokens.
        IdempotencyConflict: the idempotency key belongs to another body.
    """
    limits, job = settings.limits, WireJob.of(job)
    spec = job.to_wire()
    size = len(spec.encode())
    if size > limits.max_job_bytes:
        raise InvalidJob(
            "job", f"is {size} bytes as JSON; at most {limits.max_job_bytes} are accepted (max_job_bytes)"
        )
    prompt_tokens = len(job.prompt_token_ids or ())
    if job.truncate_prompt_tokens is not None:
        prompt_tokens = min(prompt_tokens, job.truncate_prompt_tokens)
    if isinstance(job.continuation, tuple):
        limits.check(job, len(job.continuation))
        prompt_tokens += len(job.continuation)
    else:
        limits.check(job, prompt_tokens)

    def parse(reply: list[Any]) -> str | None:
        status = text(reply[0])
        if status == "full":
            lane = f"{job.job_class}:{job.tenant} of {job.model}"
            raise QueueFull(lane, int(reply[1]), int(reply[2]), int(reply[3]) / 1000)
        if status == "rate":
            allowed = f"{text(reply[1])} a minute of {job.model}"
            raise RateLimited(job.tenant, float(text(reply[2])), allowed, int(reply[3]) / 1000)
        if status == "alias":
            return None
        known_id = text(reply[1])
        if status == "conflict":
            raise IdempotencyConflict(job.idempotency_key or "", known_id)
        return known_id

    return script("enqueue").call(
        tag.base,
        parse,
        id=job_id,
        spec=spec,
        **{"class": job.job_class.value},
        tenant=job.tenant,
        prompt_tokens=prompt_tokens,
        prompt_bytes=job.prompt_bytes,
        max_tokens=job.max_tokens,
        v=job.v,
        idempotency_key=job.idempotency_key or "",
        body_hash=_body_hash(job),
        idempotency_ms=round(settings.idempotency_s * 1000),
        delay_ms=round(job.delay_s * 1000),
        deadline_ms=round((job.deadline_s or 0) * 1000),
        max_runtime_ms=round((job.max_runtime_s or 0) * 1000),
        max_attempts=job.max_attempts,
        retention_ms=round(settings.retention_s * 1000),
        events=",".join(job.events),
        max_queued_jobs=limits.max_queued_jobs,
        max_queued_bytes=limits.max_queued_bytes,
        metadata=json.dumps(job.metadata, ensure_ascii=False) if job.metadata else "",
        retry_of=retry_of,
        chosen=int(job.chosen),
        n=job.n,
    )


def _body_hash(job: WireJob) -> str:
    """A hash that is equal for requests that ask for the same thing."""
    if job.idempotency_key is None:
        return ""
    canonical = json.dumps(job.asked_for(), sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode(), digest_size=12).hexdigest()
