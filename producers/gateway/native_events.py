"""What a native job's stream says: its chunks, and how it ended."""

from typing import Any

from ...schemas.errors import HeadraceError, JobCancelled, JobExpired, JobFailed
from ...schemas.events import Chunk, JobResult, JobState
from ..answer_reader import AnswerReader
from .errors import refusal_of

_END = {"state", "finish_reason", "usage", "timings"}


class NativeEvents:
    """The events of a job's stream: what `JobHandle.stream` yields, and how the job ended.

    Args:
        job_id: the job, to say what its text calls and thinks; without it, chunks have their text only.
    """

    def __init__(self, job_id: str | None = None) -> None:
        self._answer = None if job_id is None else AnswerReader(job_id)
        self._offset = 0

    def start(self) -> list[dict[str, Any]]:
        """Nothing comes before the first token."""
        return []

    def chunk(self, chunk: Chunk) -> list[dict[str, Any]]:
        """The chunk."""
        self._offset = chunk.offset
        return [_told(chunk if self._answer is None else self._answer.explained(chunk))]

    def end(self, result: JobResult) -> list[dict[str, Any]]:
        """The end of a job that succeeded."""
        rest = [] if self._answer is None else map(_told, self._answer.rest(self._offset))
        return [*rest, {"type": "end", **result.model_dump(mode="json", include=_END)}]

    def failed(self, error: HeadraceError) -> list[dict[str, Any]]:
        """The end of a job that didn't, or what prevents the stream from going on."""
        told = refusal_of(error).body["error"]
        states = {JobFailed: JobState.FAILED, JobCancelled: JobState.CANCELLED, JobExpired: JobState.EXPIRED}
        if (state := states.get(type(error))) is None:
            return [{"type": "error", "error": told}]
        return [{"type": "end", "state": state.value, "error": told}]


def _told(chunk: Chunk) -> dict[str, Any]:
    told = chunk.model_dump(mode="json", exclude_none=True, exclude={"lengths", "format"})
    return {"type": "chunk", **told}
