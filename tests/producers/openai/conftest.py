import pytest

from headrace import Chunk, JobResult
from headrace.schemas.events import JobState, TokenLogprob, Usage

JOB = "01kg9y2v6mf3c8s5w4x7z0qabd.0.m"

TOKENS = (
    TokenLogprob(token_id=1, token="hé", logprob=-0.5, top=((1, "hé", -0.5), (9, "z", -2.0))),
    TokenLogprob(token_id=2, token="y", logprob=-1.0),
)


@pytest.fixture
def result() -> JobResult:
    return JobResult(
        job_id=JOB,
        state=JobState.SUCCEEDED,
        text="héy",
        token_ids=(1, 2),
        finish_reason="stop",
        usage=Usage(prompt_tokens=3, cached_tokens=1, completion_tokens=2),
        logprobs=TOKENS,
        fingerprint="00ff00ff00ff00ff",
    )


@pytest.fixture
def chunks() -> list[Chunk]:
    """The stream of `result`: the first token's text is held back until the second."""
    return [
        Chunk(offset=1, text="", token_ids=(1,), logprobs=TOKENS[:1]),
        Chunk(offset=2, text="héy", token_ids=(2,), logprobs=TOKENS[1:]),
    ]
