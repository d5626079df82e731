"""The log's line for a job that ended while no worker had it."""

from collections.abc import Iterable

import structlog

from ..schemas.scripts import Ended

log = structlog.get_logger(__name__)

LONGEST_NAME = 64
"""Characters of a name, unless its record is damaged."""


def log_ended(ended: Iterable[Ended], **about: str) -> None:
    """Write it for each; `about` is added."""
    for job in ended:
        log.info(
            "job_ended",
            job=job.job_id,
            tenant=job.tenant[:LONGEST_NAME],
            job_class=job.job_class[:LONGEST_NAME],
            attempts=job.attempts,
            output_tokens=job.output_tokens,
            age_s=round(job.age_s, 3),
            last_worker=job.worker[:LONGEST_NAME] or None,
            state=job.state,
            code=job.code or None,
            **about,
        )
