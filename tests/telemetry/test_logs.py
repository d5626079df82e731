import ast
import json
import os
import pty
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headrace.telemetry.logs import WITHHELD

SETUP = """
import logging, structlog, warnings
from headrace.telemetry import logs
logs.configure("info", worker="worker-1", model="demo")
log = structlog.get_logger("headrace.test")
"""


def lines_of(code: str) -> list[dict[str, Any]]:
    """What a program that configured its logs wrote to stderr."""
    ended = subprocess.run([sys.executable, "-c", SETUP + code], capture_output=True, text=True, check=True)
    assert ended.stdout == ""
    return [json.loads(line) for line in ended.stderr.splitlines()]


def test_a_line_is_json_with_the_bound_fields_a_level_a_logger_and_a_time() -> None:
    [line] = lines_of("log.info('claimed', job='1', took_s=0.5)")
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "claimed",
        "job": "1",
        "took_s": 0.5,
        "level": "info",
        "logger": "headrace.test",
        "worker": "worker-1",
        "model": "demo",
    }


def test_standard_loggers_and_warnings_go_the_same_way() -> None:
    code = """
logging.getLogger("celery.worker").warning("lost %s", "redis")
logging.getLogger("kombu").debug("not at this level")
warnings.warn("careful")
"""
    lost, careful = lines_of(code)
    assert (lost["event"], lost["level"], lost["logger"]) == ("lost redis", "warning", "celery.worker")
    assert lost["worker"] == "worker-1"
    assert "careful" in careful["event"]


def test_a_library_that_prints_by_itself_is_adopted() -> None:
    code = """
library = logging.getLogger("transformers")
library.addHandler(logging.StreamHandler())
library.propagate = False
logs.adopt("transformers")
library.warning("once, as JSON")
"""
    assert [line["event"] for line in lines_of(code)] == ["once, as JSON"]


@pytest.mark.parametrize("name", ["prompt", "messages", "text", "spec", "secret", "token_ids"])
def test_content_and_secrets_are_left_out_wherever_they_are(name: str) -> None:
    assert name in WITHHELD
    code = f"""
log.info("a", {name}="topsecret", job="1")
log.info("b", nested={{"{name}": "topsecret", "deep": [{{"{name}": "topsecret"}}], "kept": 1}})
"""
    first, second = lines_of(code)
    assert "topsecret" not in json.dumps([first, second])
    assert first["job"] == "1"
    assert second["nested"] == {"deep": [{}], "kept": 1}


def test_an_object_does_not_print_itself() -> None:
    code = """
class Job:
    def __repr__(self):
        return "topsecret"
log.info("a", job=Job(), jobs=[Job()], body=b"topsecret", raw=b"topsecret")
"""
    [line] = lines_of(code)
    assert (line["job"], line["jobs"], line["raw"]) == ("<Job>", ["<Job>"], "<bytes>")
    assert "topsecret" not in json.dumps(line)


def test_passwords_and_secrets_are_masked_in_messages_and_tracebacks() -> None:
    code = """
logging.getLogger("celery").error("connecting to %s", "redis://user:topsecret@host:6379/0")
try:
    raise ConnectionError("redis://:topsecret@host whsec_topsecret Authorization: Bearer topsecret")
except ConnectionError as error:
    log.exception("failed", error=error)
from pydantic import BaseModel
class Model(BaseModel):
    prompt: int
try:
    Model(prompt="topsecret")
except ValueError:
    log.exception("invalid")
"""
    lines = lines_of(code)
    assert len(lines) == 3
    assert lines[0]["event"] == "connecting to redis://user:***@host:6379/0"
    assert "ConnectionError: redis://:***@host whsec_*** Authorization: Bearer ***" in lines[1]["exception"]
    assert "int_parsing" in lines[2]["exception"]
    assert "topsecret" not in json.dumps(lines)


def test_a_message_that_celery_can_not_make_sense_of_is_not_quoted() -> None:
    code = """
from celery.worker.consumer import consumer
celery = logging.getLogger(consumer.__name__)
celery.error(consumer.INVALID_TASK_ERROR, "no eta", "topsecret")
celery.error(consumer.UNKNOWN_TASK_ERROR, "other.task", "topsecret", {"argsrepr": "topsecret"}, {})
celery.error(consumer.UNKNOWN_FORMAT, "topsecret")
celery.error(consumer.MESSAGE_DECODE_ERROR, "not json", "text", "utf-8", ["topsecret"], "topsecret")
"""
    lines = lines_of(code)
    assert [line["event"].split()[0] for line in lines] == ["Received", "Received", "Received", "Can't"]
    assert "no eta" in lines[0]["event"]
    assert "topsecret" not in json.dumps(lines)


def test_a_terminal_gets_readable_lines() -> None:
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", SETUP + "log.info('claimed', job='1')"], stderr=theirs, check=True)
    os.close(theirs)
    with os.fdopen(ours, "rb") as terminal:
        shown = terminal.read1(4096).decode()
    assert "claimed" in shown
    assert not shown.startswith("{")


def test_no_log_call_of_the_worker_names_content() -> None:
    root = Path(__file__).parents[2]
    calls = [
        node
        for path in (*(root / "workers").rglob("*.py"), *(root / "telemetry").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("log.")
    ]
    assert calls
    assert not {keyword.arg for call in calls for keyword in call.keywords} & WITHHELD


CRASHES = """
import sys, threading
def fail():
    raise ValueError("bad whsec_topsecret")
thread = threading.Thread(target=fail, name="io")
thread.start()
thread.join()
fail()
"""


def test_what_ends_a_process_or_a_thread_is_one_event_with_its_exception() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SETUP + CRASHES], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    first, second = map(json.loads, ended.stderr.splitlines())
    assert (first["event"], first["thread"], second["event"]) == ("thread_crashed", "io", "crashed")
    for line in (first, second):
        assert line["worker"] == "worker-1"
        assert line["exception"].startswith("Traceback")
        assert line["exception"].endswith("ValueError: bad whsec_***")


def test_an_engine_process_that_can_not_be_loaded_says_so_as_one_event(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no such library')")
    ended = subprocess.run(
        [sys.executable, "-m", "headrace.workers.engine_process.main", "0"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    [line] = map(json.loads, ended.stderr.splitlines())
    assert (ended.returncode, line["event"]) == (1, "crashed")
    assert line["exception"].endswith("ImportError: no such library")


def test_redis_clients_say_nothing_of_what_a_server_does_not_offer_at_debug_level() -> None:
    code = """
logs.configure("debug")
logging.getLogger("redis.connection").debug("Failed to enable maintenance notifications")
log.debug("ours")
"""
    assert [line["event"] for line in lines_of(code)] == ["ours"]


WITHOUT_A_READER = """
import time
started = time.monotonic()
for number in range(2000):
    log.info("line", number=number, padding="x" * 400)
print(time.monotonic() - started, flush=True)
input()
log.info("last")
"""


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_log_that_nobody_reads_holds_up_nothing_and_says_what_was_lost(kind: str) -> None:
    reader, writer = (end.detach() for end in socket.socketpair()) if kind == "socket" else os.pipe()
    with (
        os.fdopen(reader, "rb") as log,
        subprocess.Popen(
            [sys.executable, "-c", SETUP + WITHOUT_A_READER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=writer,
        ) as process,
    ):
        os.close(writer)
        assert process.stdout is not None
        assert float(process.stdout.readline()) < 10
        began = os.read(log.fileno(), 1 << 20)  # there is room again
        process.communicate(b"\n", timeout=20)
        lines = [json.loads(line) for line in (began + log.read()).splitlines() if line.endswith(b"}")]
    assert process.returncode == 0
    numbers = [line["number"] for line in lines if line["event"] == "line"]
    assert numbers == list(range(len(numbers)))
    [lost] = [line["lines"] for line in lines if line["event"] == "log_lines_lost"]
    assert 2000 - len(numbers) - 1 <= lost <= 2000 - len(numbers)
    assert lines[-1]["event"] == "last"
