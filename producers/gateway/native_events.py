"""What a native job's stream says: its chunks, and how it ended."""

from typing import Any

from ...schemas.errors import HeadraceError, JobCancelled, JobExpired, JobFailed
from ...schemas.events import Chunk, JobResult, JobState
from .errors import refusal_of

_END = {"state", "finish_reason", "usage", "timings"}


class NativeEvents:
    """The events of a job's stream: what `JobHandle.stream` yields, and how the job ended."""

    def start(self) -> list[dict[str, Any]]:
        """Nothing comes before the first token."""
        return []

    def chunk(self, chunk: Chunk) -> list[dict[str, Any]]:
        """The chunk."""
        return [{"type": "chunk", **chunk.model_dump(mode="json", exclude_none=True, exclude={"lengths"})}]

    def end(self, result: JobResult) -> list[dict[str, Any]]:
        """The end of a job that succeeded."""
        return [{"type": "end", **result.model_dump(mode="json", include=_END)}]

    def failed(self, error: HeadraceError) -> list[dict[str, Any]]:
        """The end of a job that didn't, or what prevents the stream from going on."""
        told = refusal_of(error).body["error"]
        states = {JobFailed: JobState.FAILED, JobCancelled: JobState.CANCELLED, JobExpired: JobState.EXPIRED}
        if (state := states.get(type(error))) is None:
            return [{"type": "error", "error": told}]
        return [{"type": "end", "state": state.value, "error": told}]
