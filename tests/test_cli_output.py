"""What the command line prints, where it prints it, and what it ends with."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from headrace.producers.cli.words import duration, moment
from headrace.schemas import errors, keys

from .conftest import environment
from .test_cli import HEADRACE, Worker, worker  # noqa: F401 (a fixture)


def ran(*arguments: str | bytes, **options: Any) -> subprocess.CompletedProcess[bytes]:
    given = {"capture_output": True, "env": environment(), **options}
    return subprocess.run([*HEADRACE, *arguments], timeout=60, **given)


def on_a_terminal(columns: int, *arguments: str, stream: str = "stdout", **options: Any) -> str:
    """What a command prints on a terminal of that width."""
    reader, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {name: value for name, value in environment(TERM="xterm").items() if name != "COLUMNS"}
    with subprocess.Popen([*HEADRACE, *arguments], env=env, **{stream: terminal}, **options) as process:
        os.close(terminal)
        shown = b""
        while part := _read(reader):
            shown += part
    os.close(reader)
    assert process.returncode == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())


def _read(reader: int) -> bytes:
    try:
        return os.read(reader, 65536)
    except OSError:  # the other end is closed
        return b""


def test_a_flag_takes_no_value_in_any_help(cli: Any) -> None:
    for command in (
        (),
        ("enqueue",),
        ("worker",),
        ("batch",),
        ("dead", "requeue"),
        ("tenants", "secret", "add"),
    ):
        shown = cli(*command, "--help").stdout
        assert "bool" not in shown
        assert "--help" in shown


def test_a_shell_completes_commands_and_their_options() -> None:
    assert b"--install-completion" in ran("--help").stdout
    for typed, completed in (
        ("headrace que", b"queues"),
        ("headrace tenants se", b"secret"),
        ("headrace enqueue --fol", b"--follow"),
    ):
        words = {
            "_HEADRACE_COMPLETE": "complete_bash",
            "COMP_WORDS": typed,
            "COMP_CWORD": str(typed.count(" ")),
        }
        assert completed in ran(env=environment() | words).stdout


def test_a_table_cuts_no_id_however_narrow_the_terminal(redis_url: str, redis: Redis) -> None:
    name = "organisation/" + "a-very-long-model-name-" * 4
    redis.hset(keys.models(), name, json.dumps({"id": name, "context_tokens": 64, "dtype": "bfloat16"}))
    for columns in (20, 80, 200):
        assert name in on_a_terminal(columns, "models", "--redis", redis_url)


def test_the_errors_statuses_tell_them_apart() -> None:
    assert errors.InvalidJob("x", "y").exit_status == errors.BadSetting("x").exit_status == 2
    told = {errors.JobNotFound, errors.JobFailed, errors.JobCancelled, errors.JobExpired, errors.QueueFull}
    told |= {errors.BrokerUnavailable, errors.ResultTimeout, errors.IdempotencyConflict, errors.InvalidJob}
    assert len({error.exit_status for error in told} - {0, 1}) == len(told)


def test_enqueueing_needs_no_model_where_there_is_one_to_take(cli: Any, worker: Worker) -> None:  # noqa: F811
    assert cli("enqueue", "hi", "-f").stdout == "Hello, world\n"
    worker.redis.hset(keys.models(), "other", '{"id": "other"}')
    failed = cli("enqueue", "hi")
    assert (failed.returncode, "(served here: m, other)" in failed.stderr) == (2, True)
    assert cli("enqueue", "hi", "-f", HEADRACE_DEFAULT_MODEL="m").stdout == "Hello, world\n"


def test_lines_of_a_batch_need_no_model_where_there_is_one_to_take(
    cli: Any,
    worker: Worker,  # noqa: F811
    tmp_path: Path,
) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}]}
    chat = {"custom_id": "a", "url": "/v1/chat/completions", "body": body}
    lines = [chat, {"custom_id": "b", "prompt": "x", "model": None}, {"prompt": "x", "model": "m"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cli("batch", "in.jsonl", "-o", "one.jsonl").stderr.startswith("3 answered, 0 failed")
    worker.redis.hset(keys.models(), "other", '{"id": "other"}')
    assert cli("batch", "in.jsonl", "-o", "several.jsonl").stderr.startswith("1 answered, 2 failed")
    told = {
        answer["custom_id"]: answer["error"]
        for answer in map(json.loads, (tmp_path / "several.jsonl").read_text().splitlines())
    }
    assert told["a"]["message"] == (
        "model: line 1 names none: name one (served here: m, other), or set HEADRACE_DEFAULT_MODEL, or give "
        "--model for all such lines"
    )
    assert (told["b"]["code"], told["line-3"]) == ("invalid_job", None)
    chosen = cli("batch", "in.jsonl", "-o", "chosen.jsonl", HEADRACE_DEFAULT_MODEL="m")
    assert chosen.stderr.startswith("3 answered, 0 failed")


def test_status_and_result_are_in_words(cli: Any, worker: Worker) -> None:  # noqa: F811
    job_id = cli("enqueue", "hi").stdout.strip()
    got = cli("result", job_id, "--timeout-s", "20")
    assert (got.returncode, got.stdout) == (0, "Hello, world\n")
    told = r"stop: 0 tokens after a prompt of 0; the first after [\d.]+ s; all within [\d.]+ s\n"
    assert re.fullmatch(told, got.stderr)
    assert json.loads(cli("result", job_id, "--json").stdout)["token_ids"] == [1, 2]
    shown = cli("status", job_id).stdout
    assert re.search(r"^enqueued +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4} \(.* ago\)$", shown, re.MULTILINE)
    assert re.search(r"^ended .*, .* s after its start$", shown, re.MULTILINE)
    assert not re.search(r"\d{13}", shown)


def test_what_did_not_succeed_has_a_status_of_its_own(cli: Any, redis: Redis) -> None:
    redis.hset(keys.models(), "m", '{"id": "m"}')
    job_id = cli("enqueue", "hi").stdout.strip()
    assert cli("result", job_id, "--timeout-s", "0").returncode == 9
    cli("cancel", job_id)
    for command in ("result", "tail"):
        assert cli(command, job_id).returncode == 5
    assert "state        cancelled" in cli("status", job_id).stdout
    keyed = ("enqueue", "--idempotency-key", "k")
    assert cli("cancel", cli(*keyed, "a").stdout.strip()).returncode == 0
    assert cli(*keyed, "b").returncode == 10
    assert cli("workers", "drain", "nobody").returncode == 3


def test_text_that_is_not_utf_8_is_one_sentence(cli: Any, redis_url: str) -> None:
    failed = cli("enqueue", "-", "-m", "m", stdin="café".encode("latin-1"))
    said = (
        "headrace: prompt: is not UTF-8: byte 0xe9 at position 3; convert it first, for example with iconv "
    )
    assert (failed.returncode, failed.stderr.startswith(said)) == (2, True)
    typed = ran("enqueue", b"caf\xe9", "-m", "m", "--redis", redis_url)
    assert (typed.returncode, typed.stderr.decode().startswith(said)) == (2, True)
    endless = cli("enqueue", "-", "-m", "m", stdin="x" * 200, HEADRACE_MAX_JOB_BYTES="100")
    assert endless.stderr == "headrace: prompt: has more than max_job_bytes = 100 bytes\n"


def test_a_locale_without_the_characters_ends_no_command(redis_url: str, redis: Redis) -> None:
    redis.hset(keys.models(), "m", '{"id": "m"}')
    plain = environment(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    for arguments in (
        ("--help",),
        ("enqueue", "--help"),
        ("models", "--redis", redis_url),
        ("enqueue", "caf\u00e9", "-m", "x"),
    ):
        ended = ran(*arguments, env=plain)
        assert b"Traceback" not in ended.stderr
        assert b"codec" not in ended.stderr


@pytest.mark.parametrize(
    "command", [("models",), ("config",), ("--help",), ("--version",), ("queues", "--json")]
)
def test_a_full_disk_is_one_sentence(redis_url: str, command: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = ran(
            *command,
            capture_output=False,
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(HEADRACE_REDIS_URL=redis_url),
        )
    assert (ended.returncode, ended.stderr) == (1, b"headrace: standard output: No space left on device\n")


def test_a_closed_pipe_and_a_closed_output_are_borne(redis_url: str) -> None:
    shell = f"{sys.executable} -m headrace.cli models --redis {redis_url}"
    for line in (f"{shell} | true", f"{shell} >&-"):
        ended = subprocess.run(["bash", "-c", line], capture_output=True, env=environment(), timeout=60)
        assert b"Traceback" not in ended.stderr


def test_durations_and_moments_are_said_as_people_say_them() -> None:
    said = [duration(s) for s in (0, 0.0251, 0.25, 5, 12.4, 59.7, 61, 600, 3_700, 90_000)]
    assert said == [
        "0 s",
        "0.025 s",
        "0.25 s",
        "5 s",
        "12 s",
        "1 min",
        "1 min 1 s",
        "10 min",
        "1 h 1 min",
        "1 d 1 h",
    ]
    assert moment(1_000, 61_000).endswith("(1 min ago)")
    assert moment(61_000, 1_000).endswith("(in 1 min)")


def test_progress_is_a_bar_on_a_terminal_and_a_line_now_and_then_elsewhere(
    cli: Any,
    worker: Worker,  # noqa: F811
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "in").write_text('{"prompt": "x"}\n')
    command = ("batch", "in", "-m", "m", "-o")
    monkeypatch.setattr("headrace.producers.cli.batch.TELL_S", 0.0)
    told = cli(*command, "out").stderr.splitlines()
    assert [line for line in told if " done, " in line] == ["0 of 1 done, 0 failed", "1 of 1 done, 0 failed"]
    bar = on_a_terminal(100, *command, "other", "--redis", redis_url, stream="stderr", cwd=tmp_path)
    assert "1/1 2 tokens, 0 failed" in bar
