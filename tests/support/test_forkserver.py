"""A forked process is what Python would have started."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .forkserver import Forkserver
from .waiting import wait_until

SAYS = """
import json, os, sys
facts = {
    "name": __name__, "argv": sys.argv, "path": sys.path[0], "cwd": os.getcwd(), "parent": os.getppid(),
    "environment": dict(os.environ), "group": os.getpgid(0), "loaded": "wave" in sys.modules,
}
print(json.dumps(facts))
if len(sys.argv) > 2:
    os.write(int(sys.argv[2]), b"inherited")
sys.exit(7)
"""

STARTS = """
import subprocess, sys
child = subprocess.Popen([sys.executable, sys.argv[1], "below"], process_group=0)
print(child.pid, child.wait())
"""

WAITS = """
import time
print("waiting", flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def server(no_process_left: None) -> Iterator[Forkserver]:
    """A server that has loaded `wave`, which nobody else loads."""
    server = Forkserver(["wave"])
    yield server
    server.close()


def script(folder: Path, text: str, name: str = "script.py") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_it_has_the_arguments_environment_folder_streams_and_parent_that_were_asked_for(server, tmp_path):
    path = script(tmp_path, SAYS)
    reader, writer = os.pipe()
    with (tmp_path / "out").open("wb") as out:
        process = server.start(
            [sys.executable, path, "one", str(writer)],
            stdout=out,
            env={"HOME": "/nowhere"},
            cwd=tmp_path,
            pass_fds=[writer],
        )
    os.close(writer)
    assert process.wait(20) == 7
    with os.fdopen(reader) as inherited:
        assert inherited.read() == "inherited"
    facts = json.loads((tmp_path / "out").read_text())
    assert facts["argv"] == [path, "one", str(writer)]
    assert (facts["path"], facts["cwd"], facts["name"]) == (str(tmp_path), str(tmp_path), "__main__")
    assert (facts["parent"], facts["group"]) == (os.getpid(), os.getpgid(0))
    assert facts["environment"] == {"HOME": "/nowhere"}
    assert facts["loaded"]


def test_it_runs_modules_from_its_folder(server, tmp_path):
    script(tmp_path, SAYS, "here.py")
    with (tmp_path / "out").open("wb") as out:
        process = server.start([sys.executable, "-m", "here", "x"], stdout=out, cwd=tmp_path)
    assert process.wait(20) == 7
    facts = json.loads((tmp_path / "out").read_text())
    assert facts["argv"] == [str(tmp_path / "here.py"), "x"]


def test_it_finds_modules_on_its_pythonpath_and_customizes_itself_once(server, tmp_path):
    folder = tmp_path / "path"
    folder.mkdir()
    script(folder, "import os; print('customized', os.environ['MARK'], flush=True)", "sitecustomize.py")
    script(folder, "print('found')", "wanted.py")
    environment = os.environ | {"PYTHONPATH": str(folder), "MARK": "here"}
    starts, wants = script(tmp_path, STARTS), script(tmp_path, "import wanted", "wants.py")
    with (tmp_path / "out").open("wb") as out:
        process = server.start([sys.executable, starts, wants], stdout=out, env=environment)
    assert process.wait(20) == 0
    lines = (tmp_path / "out").read_text().splitlines()
    assert lines[:2] == ["customized here", "found"]
    assert lines[2].endswith(" 0")


def test_what_it_starts_is_forked_too_and_its_child(server, tmp_path):
    says = script(tmp_path, SAYS, "says.py")
    with (tmp_path / "out").open("wb") as out:
        process = server.start([sys.executable, script(tmp_path, STARTS), says], stdout=out)
    assert process.wait(20) == 0
    said, told = (tmp_path / "out").read_text().splitlines()
    child, status = map(int, told.split())
    facts = json.loads(said)
    assert status == 7
    assert (facts["parent"], facts["group"]) == (process.pid, child)
    assert facts["loaded"]


def test_it_is_waited_for_and_ended_by_signals(server, tmp_path):
    with (tmp_path / "out").open("wb") as out:
        process = server.start([sys.executable, script(tmp_path, WAITS)], stdout=out)
    wait_until(lambda: "waiting" in (tmp_path / "out").read_text())
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0)
    process.terminate()
    assert process.wait(20) == -signal.SIGTERM
    process.kill()  # it has ended: nothing happens
