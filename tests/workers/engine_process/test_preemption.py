"""How much room there would be once less urgent jobs gave way."""

from headrace.schemas.job import JobClass
from headrace.schemas.keys import Tag
from headrace.workers.engine_process.choice import RunningChoice
from headrace.workers.engine_process.preemption import room_made
from headrace.workers.engine_process.running_job import RunningJob


class Room:
    """Room that counts how often it is asked for: the roster goes through all its jobs for it."""

    free_slots = 0
    asked = 0

    @property
    def free_tokens(self) -> int:
        self.asked += 1
        return 100

    def held_tokens(self, job_id: str) -> int:
        return 0


def running(job_class: JobClass, tokens: int, *, preparing: bool = False) -> RunningJob:
    job = RunningJob(Tag("m"), "j", "f", None, 0.0, job_class=job_class, preparing=preparing)
    if preparing:
        job.cost_tokens = tokens
    else:
        job.prompt_tokens, job.choices = 1, [RunningChoice(token_ids=[0] * (tokens - 1))]
    return job


def test_a_class_is_told_of_the_room_that_all_less_urgent_jobs_would_make():
    jobs = [running(JobClass.STANDARD, 10), running(JobClass.BATCH, 20), running(JobClass.BATCH, 5)]
    jobs += [running(JobClass.STANDARD, 7, preparing=True), running(JobClass.INTERACTIVE, 900)]
    assert room_made(jobs, Room()) == {JobClass.STANDARD: 125, JobClass.INTERACTIVE: 142}


def test_what_the_room_is_depends_on_is_asked_once_however_many_jobs_run():
    room = Room()
    assert room_made([running(JobClass.STANDARD, 2) for _ in range(256)], room) == {
        JobClass.INTERACTIVE: 100 + 512
    }
    assert room.asked == 1


def test_nobody_is_told_of_room_where_no_job_would_give_way():
    assert room_made([running(JobClass.INTERACTIVE, 10)], Room()) == {}
