"""What the tour came to: the facts at its end, and whether it showed what it is for."""

import statistics
from dataclasses import dataclass

from ...schemas.events import JobResult, JobState
from .kill import Kill
from .scene import Scene


@dataclass(slots=True)
class Outcome:
    """All results, and who was killed."""

    scene: Scene
    results: list[JobResult]
    kill: Kill | None
    elapsed_s: float

    @property
    def succeeded(self) -> int:
        """Jobs that did."""
        return sum(result.state is JobState.SUCCEEDED for result in self.results)

    @property
    def resumed(self) -> int:
        """Jobs of the engine that was killed which another brought to their end."""
        return self.kill.resumed(self.results) if self.kill else 0

    @property
    def breaks(self) -> int:
        """Places in the streams where a token was lost or came twice."""
        return sum(stream.breaks for stream in self.scene.streams)

    @property
    def fault(self) -> str | None:
        """Why the tour did not show what it is for, if it did not."""
        if self.succeeded < self.scene.total_jobs:
            return f"{self.scene.total_jobs - self.succeeded} of {self.scene.total_jobs} jobs did not succeed"
        if self.breaks:
            return f"tokens were lost or repeated in {self.breaks} places"
        if not self.resumed:
            return "no engine was killed in the middle of a job, so none was resumed; run it again"
        return None

    def rows(self, *, slowed: bool) -> list[tuple[str, str]]:
        """The facts, as name and value."""
        tokens = sum(len(result.token_ids) for result in self.results)
        streams = self.results[: len(self.scene.streams)]
        first_token_s = statistics.median(result.timings.first_token_s or 0.0 for result in streams)
        pause_s = max(stream.longest_gap_s for stream in self.scene.streams)
        return [
            ("jobs finished", f"{self.succeeded} of {self.scene.total_jobs}"),
            ("output tokens", f"{tokens:,}"),
            ("tokens per second", f"{tokens / self.elapsed_s:,.0f}" + (", slowed" if slowed else "")),
            ("time to first token (streams)", f"{1000 * first_token_s:.0f} ms median"),
            ("jobs resumed after kill -9", str(self.resumed)),
            ("longest pause in a stream", f"{pause_s:.1f} s"),
            ("tokens lost or repeated in streams", str(self.breaks)),
        ]
