"""Temporary data folders. They hold prompts and outputs, so none stays behind.

A process that is killed can't remove its own. Each is therefore locked for as long as its process lives, and
who makes one removes those that are no longer locked. The lock's file goes last: what a process leaves behind
that is killed while it removes a folder, the next one removes.
"""

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from .process import LOCK as SERVER_LOCK

_PREFIX = "headrace-redis-"
_LOCK = "owner.lock"
_SETTLED_S = 60.0
"""A younger folder may not be locked yet."""


class TemporaryFolder:
    """A folder of this process, until `remove`."""

    def __init__(self) -> None:
        _remove_abandoned(Path(tempfile.gettempdir()))
        self._folder = tempfile.TemporaryDirectory(prefix=_PREFIX)
        self.path = Path(self._folder.name)
        self._lock = (self.path / _LOCK).open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Delete it with all it holds, whatever somebody else has deleted of it."""
        with self._lock:
            _empty(self.path)
            self._folder.cleanup()


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            about = folder.lstat()
            if about.st_uid != os.getuid() or time.time() - about.st_mtime < _SETTLED_S:
                continue
            with ExitStack() as locks:
                for name in (_LOCK, SERVER_LOCK):  # a server may run on it again, as on any folder
                    if name == _LOCK or (folder / name).exists():
                        lock = locks.enter_context((folder / name).open("rb"))
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _empty(folder)
                shutil.rmtree(folder)
        except OSError:  # it is in use, or somebody else was faster
            continue


def _empty(folder: Path) -> None:
    """Delete all but the owner's lock."""
    with suppress(FileNotFoundError):
        for child in folder.iterdir():
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            elif child.name != _LOCK:
                child.unlink()
