"""A job's record, the hash that Redis holds of it, as what workers publish about the job."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from .errors import HeadraceError, RecordDamaged
from .events import JobError, JobResult, JobState, JobStatus, Timings
from .job import JobClass
from .output import is_large, read_output

DAMAGE = (LookupError, TypeError, ValueError, RecursionError)
"""What reading a record that was damaged raises."""


@contextmanager
def intact(job_id: str) -> Iterator[None]:
    """Guard the reading of a job's record.

    Raises:
        RecordDamaged: the record can't be read.
    """
    try:
        yield
    except HeadraceError:
        raise
    except DAMAGE as error:
        raise RecordDamaged(job_id) from error


@dataclass(slots=True)
class Record:
    """A job's hash as read from Redis, decoded to text."""

    job_id: str
    fields: dict[str, str] = field(default_factory=dict)

    def _ms(self, name: str) -> int | None:
        return int(self.fields[name]) if name in self.fields else None

    def _since_enqueued(self, name: str) -> float | None:
        moment = self._ms(name)
        # Not below 0, should Redis's clock have been set back.
        return None if moment is None else max(0, moment - int(self.fields["enqueued_ms"])) / 1000

    @property
    def state(self) -> JobState:
        """The job's state."""
        return JobState(self.fields["state"])

    @property
    def error(self) -> JobError | None:
        """Why the job failed; None if it didn't."""
        return JobError.model_validate_json(self.fields["error"]) if "error" in self.fields else None

    def status(self) -> JobStatus:
        """The record as a `JobStatus`."""
        spec = json.loads(self.fields["spec"])
        return self._status(spec["model"], spec.get("metadata", {}))

    def listed(self, model: str) -> JobStatus:
        """The same without the spec, which may be large."""
        return self._status(model, json.loads(self.fields.get("metadata", "{}")))

    def _status(self, model: str, metadata: dict[str, str]) -> JobStatus:
        return JobStatus(
            job_id=self.job_id,
            model=model,
            state=self.state,
            job_class=JobClass(self.fields["class"]),
            tenant=self.fields["tenant"],
            offset=int(self.fields.get("offset", 0)),
            attempts=int(self.fields.get("attempts", 0)),
            worker=self.fields.get("worker"),
            fingerprint=self.fields.get("fingerprint"),
            restarts=int(self.fields.get("restarts", 0)),
            enqueued_ms=int(self.fields["enqueued_ms"]),
            started_ms=self._ms("started_ms"),
            first_token_ms=self._ms("first_token_ms"),
            finished_ms=self._ms("finished_ms"),
            error=self.error,
            metadata=metadata,
            retry_of=self.fields.get("retry_of"),
            n=int(self.fields.get("n", 1)),
        )

    @property
    def is_large(self) -> bool:
        """Whether `result` takes so long that it should be called beside an event loop."""
        return is_large(self.fields.get("result", ""))

    def result(self) -> JobResult:
        """The record of an ended job as a `JobResult`."""
        return JobResult(
            # Its attributes as they are: model_dump would copy a long output, and turn its parts into dicts.
            **read_output(self.fields["result"]).__dict__,
            job_id=self.job_id,
            state=self.state,
            error=self.error,
            timings=Timings(
                queued_s=self._since_enqueued("started_ms"),
                first_token_s=self._since_enqueued("first_token_ms"),
                total_s=self._since_enqueued("finished_ms"),
            ),
            attempts=int(self.fields.get("attempts", 0)),
            worker=self.fields.get("worker"),
            fingerprint=self.fields.get("fingerprint"),
            restarts=int(self.fields.get("restarts", 0)),
            mixed="mixed" in self.fields,
        ).read()
