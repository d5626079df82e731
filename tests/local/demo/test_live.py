"""`headrace demo` in a terminal, as somebody sees it who sits before it."""

import codecs
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path

import pytest
from tests.local.demo.terminal import Terminal

WIDTH, HEIGHT = 80, 24
SOONEST_S = 8.0
"""Nobody follows a quicker one."""


def watch(
    command: list[str], folder: Path, environment: dict[str, str]
) -> tuple[int, list[tuple[float, str]]]:
    """Run it in a terminal; its exit status, and what was to be seen, each with when."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
    terminal, decoder = Terminal(WIDTH, HEIGHT), codecs.getincrementaldecoder("utf-8")()
    seen = [(time.monotonic(), "")]
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        with suppress(OSError):  # how Linux says that nobody writes there any more
            while written := os.read(ours, 65536):
                terminal.feed(decoder.decode(written))
                if terminal.text != seen[-1][1]:
                    seen.append((time.monotonic(), terminal.text))
        os.close(ours)
    return process.returncode, seen


@pytest.mark.slow  # the quick run has it without a terminal
@pytest.mark.serial
@pytest.mark.timeout(300)
def test_a_kill_and_its_resumption_are_watched_and_the_facts_stay(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_RE")}
    status, seen = watch(
        [sys.executable, "-W", "error", "-m", "headrace.cli", "demo"],
        tmp_path,
        environment | {"TERM": "xterm-256color", "LANG": "C.UTF-8"},
    )
    everything = "".join(text for _, text in seen)
    assert status == 0, seen[-1][1]
    (killed,) = set(re.findall(r'dies at token (\d+) of "', everything))
    (resumed,) = set(re.findall(r"resumed on engine \w at token (\d+), none lost", everything))
    assert int(resumed) == int(killed) + 1
    told = [
        text for _, text in seen if "dies at token" in text and "resumed on" in text and "KV pages" in text
    ]
    assert any(text.count("resumed at ") > 1 and "wait" in text for text in told), told[-1]

    celery = [text for _, text in seen if "Now from Celery" in text]
    assert any('delay("A list is").get(), and its signed webhook ...' in text for text in celery)
    assert any(
        re.search(r"engine \w .* pages, +0 jobs", text) for text in celery
    )  # as they are, not as they were

    first = next(at for at, text in seen if re.search("╰─+ token ", text))
    last = next(at for at, text in seen if "56 of 56 jobs have ended" in text)
    assert last - first >= SOONEST_S

    end = seen[-1][1].splitlines()
    assert len(end) < HEIGHT
    assert any(re.match(r"│ jobs resumed after kill -9 +│ [1-9]", line) for line in end)
    assert any(
        re.match(r"│ HTTP stream at another gateway +│ resumed at token \d+, none lost", line) for line in end
    )
    assert any(re.match(r"│ webhook, signature verified +│ job.succeeded at", line) for line in end)
    assert end[-1] == f"  {Path(sys.executable).parent / 'headrace'} up"
