"""What the jobs on an engine come to by Redis's answers."""

from typing import Any

from structlog.testing import capture_logs

from headrace.schemas.errors import BrokerUnavailable
from headrace.schemas.keys import Tag
from headrace.schemas.scripts import Advance, AdvanceStatus, ClaimedJob
from headrace.workers.engine_process.roster import Roster
from headrace.workers.engine_process.running_job import RunningJob


def test_a_redis_that_refuses_is_said_once_and_not_for_each_try_of_each_job():
    nothing: Any = None
    roster = Roster(engine=nothing, tokenizer=nothing, metrics=nothing)
    jobs = [
        RunningJob.of_claim(Tag("m"), ClaimedJob(f"j{number}", "1.x", b"{}", 0, 0, None, 0), 0.0)
        for number in range(3)
    ]
    with capture_logs() as lines:
        for _ in range(4):
            for running in jobs:
                roster.advanced(running, 0, BrokerUnavailable("no right"))
                roster.finished(running, BrokerUnavailable("no right"))
                roster.released(running, BrokerUnavailable("no right"))
            roster.advanced(jobs[0], 0, Advance(AdvanceStatus.OK))
        roster.advanced(jobs[1], 0, BrokerUnavailable("no memory"))
    assert [(line["job"], line["reason"][-9:]) for line in lines] == [("j0", "no right"), ("j1", "no memory")]
