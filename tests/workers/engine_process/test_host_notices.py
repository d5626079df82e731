"""What the host, and with it Flower, is told of a job."""

import pytest

from headrace.schemas.events import FailureCode, JobState
from headrace.schemas.keys import Tag
from headrace.schemas.scripts import ClaimedJob
from headrace.workers.engine_process.host_notices import HostNotices
from headrace.workers.engine_process.intake.refusal import refusal
from headrace.workers.engine_process.running_job import RunningJob
from headrace.workers.supervision.pipe import JobLeft

QUOTED = "the chat template refused the messages: no role for 'my secret'"


@pytest.mark.parametrize(
    ("show", "code", "message", "told"),
    [
        ("size", FailureCode.TEMPLATE, QUOTED, "template_error: the chat template refused the messages"),
        ("start", FailureCode.TEMPLATE, QUOTED, "template_error: the chat template refused the messages"),
        ("all", FailureCode.TEMPLATE, QUOTED, f"template_error: {QUOTED}"),
        ("size", FailureCode.CONTEXT_LENGTH, "9 tokens: too many", "context_length: 9 tokens: too many"),
    ],
)
def test_what_a_template_quotes_of_messages_is_shown_no_more_than_they_are(show, code, message, told):
    said: list[JobLeft] = []
    running = RunningJob.of_claim(Tag("m"), ClaimedJob("id", "1.x", b"{}", 0, 0, None, 0), 0.0)
    running.end(JobState.FAILED, "error", refusal(code, message))
    HostNotices(said.append, show).left(running, "failed")
    assert [notice.shown for notice in said] == [told]
