"""Jobs that end without an engine: what a worker would write of an answer of two tokens."""

from redis import Redis

from headrace.schemas.events import End, JobError, Output, chunk_payload
from headrace.schemas.keys import Tag
from headrace.schemas.scripts import ClaimedJob, Segment, finish, run


def end_claimed(redis: Redis, tag: Tag, job: ClaimedJob, text: str, *, failed: bool) -> None:
    """End a claimed job with this text, as succeeded or as failed."""
    end = End(
        offset=2,
        end="failed" if failed else "succeeded",
        finish_reason="error" if failed else "stop",
        error=JobError(code="engine_error", message="it was to fail") if failed else None,
    )
    segment = Segment(job.job_id, job.fence, 0, 2, chunk_payload(2, [text, ""], [1, 2], None))
    output = Output(text=text, token_ids=(1, 2), finish_reason=end.finish_reason)
    run(redis, finish(tag, segment, end, output))
