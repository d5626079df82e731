"""What a job that can't run is told."""

from ....schemas.events import FailureCode, JobError

LONGEST = 2000
"""Maximum length of an error's message, since templates quote their input."""


class JobRefused(Exception):
    """Ends the reading of one job, with its error."""

    def __init__(self, code: FailureCode, message: str) -> None:
        super().__init__(message)
        self.error = refusal(code, message)


def refusal(code: str, message: str) -> JobError:
    """The error of a job that can't run, with its message made writable."""
    written = message.encode(errors="replace").decode()
    return JobError(code=code, message=written if len(written) <= LONGEST else f"{written[:LONGEST]}…")
