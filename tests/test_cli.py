import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from redis import Redis

import headrace
from headrace.schemas import keys
from headrace.schemas.events import End, JobState, Output, chunk_payload
from headrace.schemas.keys import Tag
from headrace.schemas.scripts import ClaimRequest, Segment, advance, claim, finish, run

from .conftest import environment

HEADRACE = (sys.executable, "-W", "error", "-m", "headrace.cli")


class Worker:
    """Answers jobs of model `m` with two chunks, until stopped."""

    def __init__(self, redis: Redis) -> None:
        self.redis, self.tag, self.stopped = redis, Tag("m"), threading.Event()
        redis.hset(keys.models(), "m", json.dumps({"id": "m", "context_tokens": 64}))
        self._thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        while not self.stopped.wait(0.01):
            for job in run(self.redis, claim(self.tag, ClaimRequest("w", "n", 60_000, 10**6, 8))).jobs:
                for offset, text in enumerate(("Hello, ", "world"), start=1):
                    payload = chunk_payload(offset, [text], [offset], None)
                    segment = Segment(job.job_id, job.fence, offset - 1, offset, payload)
                    run(self.redis, advance(self.tag, 60_000, [segment]))
                run(
                    self.redis,
                    finish(
                        self.tag,
                        Segment(job.job_id, job.fence, 2, 2),
                        End(offset=2, end=JobState.SUCCEEDED, finish_reason="stop"),
                        Output(text="Hello, world", token_ids=(1, 2), finish_reason="stop"),
                    ),
                )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self._thread.join()


@pytest.fixture
def worker(redis: Redis) -> Iterator[Worker]:
    with Worker(redis) as worker:
        yield worker


def test_the_version_is_told_without_importing_anything_heavy(cli: Any) -> None:
    assert cli("--version").stdout == f"headrace {headrace.__version__}\n"
    code = "import sys; sys.argv = ['headrace', '--version']; from headrace.cli import main; main(); "
    code += "print({'redis', 'torch', 'celery'} & sys.modules.keys())"
    assert "set()" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout


def test_enqueueing_imports_no_worker() -> None:
    code = (
        "import sys; from headrace.cli import build; build(['enqueue', 'x']);"
        "print({'torch', 'celery', 'numpy', 'headrace.workers'} & sys.modules.keys())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_help_lists_every_command(cli: Any) -> None:
    shown = cli("--help")
    assert shown.returncode == 0
    for command in (
        *("enqueue", "tail", "status", "cancel", "batch", "models", "queues", "workers"),
        *("worker", "up", "demo", "config"),
    ):
        assert re.search(rf"^\W*{command} ", shown.stdout, re.MULTILINE), command
        assert cli(command, "--help").returncode == 0


def test_a_job_is_enqueued_followed_and_read_again(cli: Any, worker: Worker) -> None:
    followed = cli("enqueue", "hi", "--model", "m", "--follow", "--max-tokens", "2", "--temperature", "0")
    assert (followed.returncode, followed.stdout) == (0, "Hello, world\n")
    job_id = followed.stderr.strip()
    assert cli("tail", job_id).stdout == "Hello, world\n"
    assert cli("tail", job_id, "--from-offset", "1").stdout == "world\n"
    assert "succeeded" in cli("status", job_id).stdout
    status = json.loads(cli("status", job_id, "--json").stdout)
    assert (status["job_id"], status["state"], status["offset"]) == (job_id, "succeeded", 2)
    assert cli("cancel", job_id).stdout == "already succeeded\n"


def test_the_prompt_may_come_from_standard_input(cli: Any, worker: Worker) -> None:
    job_id = cli("enqueue", "-", "-m", "m", "--chat", stdin="what?").stdout.strip()
    assert cli("tail", job_id).stdout == "Hello, world\n"


def test_a_waiting_job_is_cancelled(cli: Any, redis: Redis) -> None:
    redis.hset(keys.models(), "m", '{"id": "m"}')
    job_id = cli("enqueue", "hi", "--model", "m").stdout.strip()
    assert json.loads(cli("queues", "--json").stdout)[0]["depth"] == 1
    assert "standard\tdefault\t1" in cli("queues").stdout
    assert cli("cancel", job_id).stdout == "cancelled\n"
    ended = cli("tail", job_id)
    assert (ended.returncode, ended.stderr) == (5, f"headrace: job {job_id} was cancelled\n")


def test_lists_are_json_or_lines(cli: Any, redis: Redis) -> None:
    assert json.loads(cli("models", "--json").stdout) == []
    redis.hset(keys.models(), "m", '{"id": "m", "context_tokens": 64}')
    assert json.loads(cli("models", "--json").stdout)[0]["context_tokens"] == 64
    assert cli("models").stdout.splitlines() == [
        "MODEL\tWORKERS\tREADY\tCONTEXT\tPARAMETERS\tDTYPE",
        "m\t0\t0\t64\t\t",
    ]
    assert json.loads(cli("workers", "--json").stdout) == []


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("enqueue", "hi", "--model", "other"), 3, "model 'other' is not served here"),
        (("enqueue", "", "--model", "other", "--no-check-model"), 2, "prompt: "),
        (("enqueue", "hi", "--model", "m", "--max-tokens", "0"), 2, "max_tokens: "),
        (("enqueue", "hi", "--model", "m", "--temperature", "nan"), 2, "temperature: "),
        (("status", "nonsense"), 3, "no job 'nonsense'"),
        (("models", "--redis", "redis://:secret@127.0.0.1:1/0"), 8, "--redis or HEADRACE_REDIS_URL"),
        (("models", "--redis", "nonsense"), 2, "is not a Redis URL"),
        (("batch", "in.jsonl", "-o", "out.jsonl"), 2, "in.jsonl"),
        (("enqueue", "hi"), 2, "served here: no models yet), or set HEADRACE_DEFAULT_MODEL; --model"),
        (("enqueue", "hi", "--model", "m", "--nonsense"), 2, "--nonsense"),
        (("tail", "x", "--from-offset", "-1"), 2, "--from-offset"),
        (("enqeue",), 2, "enqueue"),
    ],
)
def test_an_error_is_a_sentence_and_a_status(
    cli: Any, arguments: tuple[str, ...], status: int, message: str
) -> None:
    failed = cli(*arguments)
    assert failed.returncode == status
    assert message in failed.stderr
    assert "Traceback" not in failed.stderr
    assert "secret" not in failed.stderr
    if failed.stderr.startswith("headrace: "):
        assert len(failed.stderr.splitlines()) == 1


def test_an_interrupted_follow_says_how_to_go_on(redis_url: str, redis: Redis, tmp_path: Path) -> None:
    redis.hset(keys.models(), "m", '{"id": "m"}')
    process = subprocess.Popen(
        [*HEADRACE, "enqueue", "hi", "--model", "m", "--follow", "--redis", redis_url],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    tag, jobs = Tag("m"), []
    while not jobs:
        jobs = run(redis, claim(tag, ClaimRequest("w", "n", 60_000, 10**6, 1))).jobs
    segment = Segment(jobs[0].job_id, jobs[0].fence, 0, 3, chunk_payload(3, "abc", [1, 2, 3], None))
    run(redis, advance(tag, 60_000, [segment]))
    assert process.stdout.read(3) == "abc"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors.splitlines()[-1].endswith(f"headrace tail {jobs[0].job_id} --from-offset 3")
    assert "Traceback" not in errors
    end = End(offset=3, end=JobState.SUCCEEDED, finish_reason="stop")
    run(
        redis,
        finish(
            tag,
            Segment(jobs[0].job_id, jobs[0].fence, 3, 3),
            end,
            Output(text="abc", finish_reason="stop"),
        ),
    )


def test_a_batch_is_run_and_run_again(cli: Any, worker: Worker, tmp_path: Path) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    lines = [
        {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body},
        {"custom_id": "b", "prompt": "x", "model": "m"},
        {"custom_id": "c", "prompt": ""},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    first = cli("batch", "in.jsonl", "-o", "out.jsonl", "--model", "m")
    assert (first.returncode, first.stderr) == (1, "2 answered, 1 failed, 0 skipped; 4 tokens\n")
    answers = {
        answer["custom_id"]: answer
        for answer in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    }
    message = answers["a"]["response"]["body"]["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "Hello, world", "refusal": None}
    assert answers["c"]["error"]["code"] == "invalid_job"
    again = cli("batch", "in.jsonl", "-o", "out.jsonl", "--model", "m")
    told = "0 answered, 0 failed, 3 skipped; 0 tokens; errors of earlier runs: 1 (--retry-failed)\n"
    assert (again.returncode, again.stderr) == (1, told)
    other = cli("batch", "in.jsonl", "-o", "no/such/folder.jsonl")
    assert (other.returncode, "Traceback" in other.stderr) == (1, False)


def test_the_settings_are_shown_with_their_sources_and_without_secrets(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "headrace.toml").write_text("namespace = 'filed'\nlease_s = 5\nlaese_s = 7\n")
    shown = cli(
        "config",
        *("--redis", "redis://me:secret@example.com/0", "--json"),
        HEADRACE_PARTITIONS="3",
        HEADRACE_LEASE_S="6",
    )
    found = {entry["name"]: (entry["value"], entry["source"]) for entry in json.loads(shown.stdout)}
    assert found["redis_url"] == ("redis://me:***@example.com/0", "--redis")
    assert found["partitions"] == (3, "HEADRACE_PARTITIONS")
    assert found["lease_s"] == (6.0, "HEADRACE_LEASE_S")
    assert found["namespace"] == ("filed", "headrace.toml")
    assert found["retention_s"] == (86400.0, "default")
    plain = cli("config")
    assert re.search(r'namespace +"filed" +headrace.toml', plain.stdout)
    assert "laese_s" in plain.stderr


@pytest.mark.parametrize("value", ["0", "many"])
def test_a_bad_setting_is_named(cli: Any, value: str) -> None:
    failed = cli("config", HEADRACE_PARTITIONS=value)
    assert failed.returncode == 2
    assert re.match(rf"headrace: setting partitions = '{value}': ", failed.stderr)
