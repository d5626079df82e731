"""Several answers to one prompt: each is a job's of its own, they share the prompt's pages and one log."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from headrace.engine import Engine, EngineConfig
from headrace.schemas.choices import seed_of_choice
from headrace.schemas.events import Choice, JobState
from headrace.schemas.keys import Tag
from headrace.schemas.scripts import ReleaseReason
from headrace.workers.engine_process.roster import Roster
from headrace.workers.engine_process.running_job import RunningJob
from headrace.workers.metrics import Metrics
from headrace.workers.models import resolve_model

from .conftest import Desk, spec_of

PAGE = 16
PROMPT = "A list comprehension is a concise way to make a list of another one, as in these examples: " * 3

FIELDS = {"prompt": PROMPT, "max_tokens": 14, "seed": 11, "temperature": 1.0, "stop": ["th"], "logprobs": 1}


@pytest.fixture(scope="module")
def engine() -> Engine:
    model = resolve_model("demo")
    return Engine(
        EngineConfig(model=model, dtype="float32", threads=1, num_pages=257, page_size=PAGE, max_batch_size=8)
    )


@dataclass
class Worker:
    """A roster whose jobs' logs are lists, and which can be given up at any step."""

    desk: Desk
    engine: Engine
    eventually: Any
    redis: Any
    roster: Roster = field(init=False)
    shared: int = 0
    started: int = 0

    def __post_init__(self) -> None:
        self.roster = Roster(self.engine, self.desk.intake.tokenizer, Metrics("demo"))

    def start(self, job_id: str, log: list[str], offset: int, **fields: Any) -> RunningJob:
        """Take a job with this log."""
        tag = Tag("demo")
        self.redis.delete(tag.out(job_id))
        for at, payload in enumerate(log, 1):
            self.redis.xadd(tag.out(job_id), {"event": payload}, id=f"{at}-0")
        self.redis.hset(tag.job(job_id), "offset", offset)
        running = self.desk.put(spec_of(**fields), offset=offset, job_id=job_id)
        self.roster.hold(running)
        taken = []
        self.eventually(lambda: taken.extend(self.desk.taken()) or taken)
        self.roster.admit(taken[0])
        assert running.prompt_tokens > 3 * PAGE
        self.redis.delete(tag.out(job_id), tag.job(job_id))
        return running

    def step(self) -> None:
        for progress in self.engine.step():
            self.roster.take(progress)
        self.shared = max(self.shared, self.engine.stats().pages_shared)

    def publish(self, running: RunningJob, log: list[str]) -> None:
        """Write what is new, as a flush does."""
        for segment in running.segments(running.seal()):
            if segment.payload:
                assert segment.start == running.written
                log.append(segment.payload)
                running.written = segment.offset

    def run(self, job_id: str = "j", every: int = 0, **fields: Any) -> tuple[RunningJob, list[str]]:
        """Run a job to its end; it changes its worker every so many steps."""
        log: list[str] = []
        running, steps = self.start(job_id, log, 0, **fields), 0
        while not running.ended:
            self.step()
            steps += 1
            self.publish(running, log)
            if every and steps % every == 0 and not running.ended:
                self.roster.give_back(running, ReleaseReason.DRAIN)
                assert not self.engine.has_work
                self.roster.drop(running)
                running = self.start(job_id, log, running.written, **fields)
        assert running.ended is JobState.SUCCEEDED, running.error
        assert not self.engine.has_work
        self.engine.check()
        del self.roster.jobs[job_id]
        return running, log


@pytest.fixture
def worker(desk, engine, eventually, redis) -> Worker:
    return Worker(desk, engine, eventually, redis)


def said(choice: Choice | Any) -> tuple[Any, ...]:
    return choice.text, choice.token_ids, choice.finish_reason, choice.logprobs


def test_eight_answers_hold_their_prompts_pages_together_and_each_is_the_single_jobs(worker):
    running, _ = worker.run(**FIELDS, n=8)
    full = running.prompt_tokens // PAGE
    print(f"8 answers shared {worker.shared} of their prompt's {running.prompt_tokens / PAGE:.1f} pages")
    assert worker.shared >= full - (running.prompt_tokens % PAGE == 0)
    together = running.output()
    assert len({choice.token_ids for choice in together.choices}) > 4
    assert {choice.finish_reason for choice in together.choices} <= {"stop", "length"}
    for number, choice in enumerate(together.choices):
        alone, _ = worker.run(**FIELDS | {"seed": seed_of_choice(11, number)})
        assert said(alone.output()) == said(choice)
    assert said(together) == said(together.choices[0])
    total = sum(len(choice.token_ids) for choice in together.choices)
    assert (together.usage.completion_tokens, together.usage.prompt_tokens) == (total, running.prompt_tokens)


@pytest.mark.parametrize("every", [1, 2, 5])
def test_answers_go_on_where_their_parts_of_the_log_end_whenever_their_worker_changes(worker, every):
    fields = FIELDS | {"presence_penalty": 0.5, "structured_outputs": {"regex": "[a-z ]{8,30}"}}
    undisturbed, _ = worker.run(**fields, n=3)
    running, log = worker.run(every=every, **fields, n=3)
    assert list(map(said, running.output().choices)) == list(map(said, undisturbed.output().choices))
    told = [payload for payload in log if '"finish_reason"' in payload]
    assert len(told) + len(running.end_marker().choices) == 3


def test_a_log_whose_tail_redis_lost_is_written_again_as_it_was(worker):
    log: list[str] = []
    running = worker.start("j", log, 0, **FIELDS, n=3)
    for _ in range(12):
        worker.step()
        worker.publish(running, log)
    tokens = order_of(log)
    running.written = 0
    again: list[str] = []
    worker.publish(running, again)
    assert order_of(again) == tokens
    assert {choice for choice, _ in tokens} == {0, 1, 2}
    worker.roster.give_back(running, ReleaseReason.DRAIN)
    worker.roster.drop(running)


def order_of(log: list[str]) -> list[tuple[int, int]]:
    events = list(map(json.loads, log))
    return [(event.get("choice", 0), token_id) for event in events for token_id in event["token_ids"]]
