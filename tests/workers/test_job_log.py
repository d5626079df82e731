"""A job can be followed in the log: a line for its start and one for its end, and nothing of its content."""

import json

import pytest
from structlog.testing import capture_logs

from headrace.schemas.events import FailureCode, JobError, JobState
from headrace.schemas.ids import new_job_id
from headrace.schemas.keys import Tag
from headrace.schemas.scripts import Ended
from headrace.workers.ended_jobs import log_ended
from headrace.workers.engine_process.choice import RunningChoice
from headrace.workers.engine_process.host_notices import HostNotices
from headrace.workers.engine_process.running_job import RunningJob


@pytest.fixture
def running() -> RunningJob:
    """A job that has made three tokens."""
    return RunningJob(
        tag=Tag("demo"),
        job_id=new_job_id("demo"),
        fence="1",
        job=None,
        claimed_at=0.0,
        tenant="acme",
        waited_s=1.23456,
        attempts=1,
        prompt_tokens=7,
        cached_tokens=2,
        choices=[RunningChoice(token_ids=[1, 2, 3], pieces=["top", "sec", "ret"])],
        first_token_at=0.5,
    )


def said(running: RunningJob, how: str) -> dict:
    with capture_logs() as logs:
        HostNotices(show="all").left(running, how)
    [line] = logs
    assert "topsecret" not in json.dumps(line)
    return {name: value for name, value in line.items() if name not in {"log_level", "ran_s"}}


def test_a_jobs_start_is_a_line(running: RunningJob) -> None:
    with capture_logs() as logs:
        HostNotices().started(running)
    assert logs == [
        {
            "event": "job_started",
            "log_level": "info",
            "job": running.job_id,
            "tenant": "acme",
            "job_class": "standard",
            "attempts": 1,
            "resumed_at": 0,
            "prompt_tokens": 7,
            "waited_s": 1.235,
        }
    ]


def test_a_jobs_end_is_a_line(running: RunningJob) -> None:
    running.end(JobState.SUCCEEDED, "length")
    about = {"job": running.job_id, "tenant": "acme", "attempts": 1}
    about |= {"prompt_tokens": 7, "cached_tokens": 2, "output_tokens": 3, "waited_s": 1.235}
    about |= {"first_token_s": 0.5}
    end = {"event": "job_ended", "state": "succeeded", "code": None, "finish_reason": "length"}
    assert said(running, "succeeded") == about | end


def test_a_failure_has_its_code_and_not_its_reason_which_may_quote(running: RunningJob) -> None:
    running.end(JobState.FAILED, "error", JobError(code=FailureCode.TEMPLATE, message="topsecret"))
    line = said(running, "failed")
    assert (line["state"], line["code"]) == ("failed", "template_error")


@pytest.mark.parametrize("how", ["preempted", "lost"])
def test_a_job_that_goes_on_elsewhere_has_left(running: RunningJob, how: str) -> None:
    line = said(running, how)
    assert (line["event"], line["reason"], line["output_tokens"]) == ("job_left", how, 3)


def test_the_end_of_a_job_that_no_worker_had_is_a_line_too() -> None:
    ended = Ended("j", "failed", "crashed", "acme", "batch", 3, 17, 4.56789, "worker-1")
    with capture_logs() as logs:
        log_ended([ended, ended._replace(state="expired", code="", worker="")], model="demo")
    about = {"event": "job_ended", "log_level": "info", "job": "j", "model": "demo", "tenant": "acme"}
    about |= {"job_class": "batch", "attempts": 3, "output_tokens": 17, "age_s": 4.568}
    assert logs == [
        about | {"state": "failed", "code": "crashed", "last_worker": "worker-1"},
        about | {"state": "expired", "code": None, "last_worker": None},
    ]
