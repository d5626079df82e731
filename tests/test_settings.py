"""Settings that are wrong are refused, and names that are none are said, where they are given."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import environment

TOML = "headrace.toml"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"lease_s = 5\nredis_url = redis://localhost\n", "headrace.toml, line 2: Invalid value; "),
        (b"namespace = 'x'\n\nlease_s\n", "headrace.toml, line 3: "),
        (b"namespace = 'x'\nlease_s =", "headrace.toml, line 2: "),
        (b"namespace = 'x'\nnamespace = 'y'\n", "headrace.toml, line 2: "),
        (b"# caf\xc3\xa9\n# caf\xe9\n", "headrace.toml, line 2: byte 0xe9 is not UTF-8"),
        ("namespace = 'x'\n".encode("utf-16"), "headrace.toml, line 1: byte 0xff is not UTF-8"),
        (b"x = " + b"[" * 5000, "headrace.toml: a value is nested too deeply"),
        (b"x = " + b"9" * 5000, "headrace.toml: "),
        (b"#" * (2**20 + 1), "headrace.toml is not a settings file: "),
    ],
)
@pytest.mark.parametrize("command", ["models", "config", "worker", "callbacks", "doctor"])
def test_a_malformed_file_is_one_sentence_with_its_line(
    cli: Any, tmp_path: Path, content: bytes, said: str, command: str
) -> None:
    (tmp_path / TOML).write_bytes(content)
    failed = cli(command)
    assert failed.returncode != 0
    (sentence,) = failed.stderr.splitlines()
    assert said in sentence


def test_what_is_no_readable_file_is_one_sentence(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    for name in ("folder", "pipe", "socket", "nowhere", "/dev/zero", "folder/" + "x" * 300):
        failed = cli("models", HEADRACE_CONFIG=name)
        assert failed.returncode != 0
        assert len(failed.stderr.splitlines()) == 1, failed.stderr
        assert name in failed.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_one_sentence(cli: Any, tmp_path: Path) -> None:
    (tmp_path / TOML).touch(0o000)
    assert cli("models").stderr == "headrace: headrace.toml can't be read: Permission denied\n"


def test_a_files_byte_order_mark_is_no_part_of_it(cli: Any, tmp_path: Path) -> None:
    (tmp_path / TOML).write_bytes(b"\xef\xbb\xbfnamespace = 'other'\n")
    shown = json.loads(cli("config", "--json").stdout)
    assert next(entry["value"] for entry in shown if entry["name"] == "namespace") == "other"


@pytest.mark.parametrize("command", ["config", "doctor", "models", "acl", "dead list", "status x"])
def test_names_that_are_no_settings_are_said_with_what_was_meant(
    cli: Any, tmp_path: Path, command: str
) -> None:
    (tmp_path / TOML).write_text("retentions = 5\nlease-s = 3\nnonsense = 1\n[worker]\nmodel = 'x'\n")
    names = {"HEADRACE_REDISURL": "a", "HEADRACE_MODELL": "b", "headrace_redis": "c", "HEADRACE_QQQ": "d"}
    said = cli(
        *command.split(), **names, HEADRACE_CONFIG=TOML, HEADRACE_LEASE_S="5", HEADRACE_WEBHOOK_ALLOW="x"
    ).output
    for sentence in (
        "HEADRACE_REDISURL is not a setting and does nothing; did you mean HEADRACE_REDIS_URL?",
        "HEADRACE_MODELL is not a setting and does nothing; did you mean HEADRACE_MODEL?",
        "headrace_redis is not a setting and does nothing; did you mean HEADRACE_REDIS_URL?",
        "HEADRACE_QQQ is not a setting and does nothing; headrace config lists all settings",
        "headrace.toml sets retentions, which is not a setting and does nothing; did you mean retention_s?",
        "headrace.toml sets lease-s, which is not a setting and does nothing; did you mean lease_s?",
        "headrace.toml sets nonsense, which is not a setting",
        "headrace.toml sets worker, which is not a setting and does nothing; settings belong at the top",
    ):
        assert sentence in said
    assert said.count("not a setting and does nothing") == 8


def test_help_is_given_whatever_is_in_the_file(cli: Any, tmp_path: Path) -> None:
    (tmp_path / TOML).write_text("[half")
    assert cli("models", "--help").returncode == 0
    assert cli("models").returncode == 2


def test_settings_of_every_process_are_known_to_all(cli: Any) -> None:
    shown = json.loads(cli("config", "--json").stdout)
    variables = {f"HEADRACE_{entry['name'].upper()}": "" for entry in shown}
    from headrace.schemas.settings.names import unknown_settings
    from headrace.workers.known_settings import KNOWN

    assert variables.keys() == {f"HEADRACE_{name.upper()}" for name in KNOWN}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        assert not unknown_settings(KNOWN)


def test_a_worker_is_not_started_without_a_model(cli: Any) -> None:
    for given in ({}, {"HEADRACE_MODEL": ""}, {"HEADRACE_MODELL": "Qwen/Qwen3-0.6B"}):
        failed = cli("worker", **given)
        assert failed.returncode == 2
        assert "--model" in failed.stderr
        assert "HEADRACE_MODEL " in failed.stderr
        assert "demo" in failed.stderr


def test_a_list_of_classes_is_read_from_a_variable_as_from_an_option(cli: Any) -> None:
    shown = json.loads(cli("config", "--json", HEADRACE_CLASSES="interactive, batch").stdout)
    assert next(entry["value"] for entry in shown if entry["name"] == "classes") == ["interactive", "batch"]


def test_a_refused_setting_that_may_be_a_secret_is_not_shown(cli: Any) -> None:
    failed = cli("config", HEADRACE_CELERY_BROKER_TRANSPORT_OPTIONS="{'password': 'hunter2'}")
    assert "celery_broker_transport_options" in failed.stderr
    assert "hunter2" not in failed.stderr


@pytest.mark.parametrize("command", [("worker", "--model", "demo"), ("callbacks",)])
def test_what_runs_for_long_logs_the_settings_that_do_nothing(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    nowhere = ("--metrics-port", "1", "--metrics-host", "192.0.2.1")  # ends it before anything is started
    ended = subprocess.run(
        [sys.executable, "-m", "headrace.cli", *command, *nowhere],
        cwd=tmp_path,
        env=environment(HEADRACE_MODELL="x"),
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2
    lines = [json.loads(line) for line in ended.stderr.splitlines() if line.startswith("{")]
    (warned,) = (line for line in lines if line["event"] == "unknown_setting")
    assert (warned["level"], "HEADRACE_MODEL?" in warned["reason"]) == ("warning", True)


def test_a_wrong_setting_is_said_with_where_it_stands(cli: Any, tmp_path: Path) -> None:
    assert cli("config", HEADRACE_LEASE_S="many").stderr.endswith(" (HEADRACE_LEASE_S)\n")
    (tmp_path / TOML).write_text("lease_s = 'many'\n")
    assert cli("config").stderr.endswith(" (headrace.toml)\n")
    assert cli("worker", "--lease-s", "0", "--model", "m").stderr.startswith(
        "headrace worker: setting lease_s = 0"
    )
