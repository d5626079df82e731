import pytest

from headrace import JobResult
from headrace.schemas.events import JobState, Usage


@pytest.fixture
def result() -> JobResult:
    return JobResult(
        job_id="01kg9y2v6mf3c8s5w4x7z0qabd.0.m",
        state=JobState.SUCCEEDED,
        text="héy",
        token_ids=(1, 2),
        finish_reason="stop",
        usage=Usage(prompt_tokens=3, cached_tokens=1, completion_tokens=2),
    )
