"""The tour's outcome: the facts at its end, and whether it showed what it is meant to show."""

import statistics
from dataclasses import dataclass

from ...schemas.events import JobResult, JobState
from .kill import Kill
from .over_http import HttpStream
from .scene import OVER_HTTP, Scene


@dataclass(slots=True)
class Outcome:
    """All results, the engine that was killed, and the stream over HTTP if there was a gateway."""

    scene: Scene
    results: list[JobResult]
    kill: Kill | None
    elapsed_s: float
    http: HttpStream | None = None

    @property
    def succeeded(self) -> int:
        """Number of jobs that succeeded."""
        return sum(result.state is JobState.SUCCEEDED for result in self.results)

    @property
    def resumed(self) -> int:
        """Number of jobs of the killed engine that another one completed."""
        return self.kill.resumed(self.results) if self.kill else 0

    @property
    def breaks(self) -> int:
        """Number of places in the streams where a token was lost or repeated."""
        return sum(stream.breaks for stream in self.scene.streams)

    @property
    def fault(self) -> str | None:
        """Why the tour didn't show what it is meant to show; None if it did."""
        if self.succeeded < self.scene.total_jobs:
            return f"{self.scene.total_jobs - self.succeeded} of {self.scene.total_jobs} jobs did not succeed"
        if self.breaks:
            return f"tokens were lost or repeated in {self.breaks} places"
        if self.http is not None and tuple(self.http.token_ids) != self.results[OVER_HTTP].token_ids:
            return "the tokens that came over HTTP are not those of the result"
        if not self.resumed:
            return "no engine was killed in the middle of a job, so none was resumed; run it again"
        if self.http is not None and self.http.resumed is None:
            return "no gateway was killed in the middle of the stream over HTTP; run it again"
        return None

    def rows(self, *, slowed: bool) -> list[tuple[str, str]]:
        """The facts, as pairs of name and value."""
        tokens = sum(len(result.token_ids) for result in self.results)
        streams = self.results[: len(self.scene.streams)]
        first_token_s = statistics.median(result.timings.first_token_s or 0.0 for result in streams)
        pause_s = max(stream.longest_gap_s for stream in self.scene.streams)
        http = (
            [("HTTP stream at another gateway", f"resumed at token {self.http.resumed}, none lost")]
            if self.http is not None and self.http.resumed is not None
            else []
        )
        return [
            ("jobs finished", f"{self.succeeded} of {self.scene.total_jobs}"),
            ("output tokens", f"{tokens:,}"),
            ("tokens per second", f"{tokens / self.elapsed_s:,.0f}" + (", slowed" if slowed else "")),
            ("time to first token (streams)", f"{1000 * first_token_s:.0f} ms median"),
            ("jobs resumed after kill -9", str(self.resumed)),
            *http,
            ("longest pause in a stream", f"{pause_s:.1f} s"),
            ("tokens lost or repeated in streams", str(self.breaks)),
        ]
