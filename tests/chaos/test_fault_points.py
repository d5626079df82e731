"""kill -9 between every two steps of the protocol: the next engine process goes on, and nobody notices."""

import signal

import pytest

from headrace.schemas.keys import Tag

from .conftest import DRAIN_TOKENS, recorded
from .fault_points import BEFORE_ANY_JOB, START, faults, script_names
from .witness import history, violations

FAULTS = tuple(faults())
COPIES = ("EXEC", "Registration.register", *START)
"""After these the tenants' policies have been copied, and no other process does so."""
AT_THE_START = sorted(
    (fault for fault in FAULTS if fault.where in BEFORE_ANY_JOB),
    key=lambda fault: COPIES.index(fault.where) + 1 if fault.where in COPIES and fault.when == "after" else 0,
)
LATER = {(fault.where, fault.when) for fault in FAULTS if fault.after_tokens}

pytestmark = pytest.mark.timeout(120)


def broken_promises(redis, jobs, uninterrupted):
    found = violations(redis, Tag("demo"), jobs, uninterrupted)
    named = [job.job_id for job in jobs if any(job.job_id in sentence for sentence in found)]
    return [*found, *(f"history of {job_id}:\n{history(redis, job_id)}" for job_id in named)]


def each_place_once_in_the_quick_run(fault):
    """Before a step is after the one before it, and what is passed later has been passed at first."""
    twice = fault.when == "before" or (not fault.after_tokens and (fault.where, fault.when) in LATER)
    return pytest.param(fault, id=str(fault), marks=[pytest.mark.slow] if twice else [])


@pytest.mark.parametrize(
    "fault", [each_place_once_in_the_quick_run(fault) for fault in FAULTS if fault not in AT_THE_START]
)
async def test_nothing_is_lost_when_the_engine_process_is_killed(fault, scene, redis, uninterrupted):
    status, jobs = await scene.play(fault=fault, drain_at=DRAIN_TOKENS)
    assert status == -signal.SIGKILL, f"it never passed {fault}: {scene.log.read_text()[-3000:]}"
    assert broken_promises(redis, jobs, uninterrupted) == []


async def test_nothing_is_lost_when_one_engine_process_after_the_other_is_killed_while_it_starts(
    scene, redis, uninterrupted
):
    status, jobs = await scene.play(before=AT_THE_START, drain_at=DRAIN_TOKENS)
    assert status == 0
    assert broken_promises(redis, jobs, uninterrupted) == []
    # None of them had a job.
    assert {redis.hget(Tag("demo").job(job.job_id), "attempts") for job in jobs} <= {b"0", None}


async def test_every_step_of_the_protocol_has_its_points(scene, redis, uninterrupted, tmp_path):
    passages = tmp_path / "passages.json"
    status, jobs = await scene.play(drain_at=DRAIN_TOKENS, record=passages)
    assert status == 0
    assert broken_promises(redis, jobs, uninterrupted) == []
    unheard_of = {fault.where for fault in recorded(passages)} - {fault.where for fault in FAULTS}
    assert not unheard_of, "steps without a fault point"
    assert sorted(map(str, set(FAULTS) - recorded(passages))) == []


def test_the_scripts_of_an_exchange_are_found_in_the_code():
    assert {"advance", "claim", "finish", "heartbeat", "release", "upkeep"} <= set(script_names())
