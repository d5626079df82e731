"""Temporary data folders. They hold prompts and outputs, so none stays behind.

A process that is killed can't remove its own. Each is therefore locked for as long as its process lives, and
who makes one removes those that are no longer locked.
"""

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

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
        """Delete it with all it holds."""
        self._lock.close()
        self._folder.cleanup()


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            about = folder.lstat()
            if about.st_uid != os.getuid() or time.time() - about.st_mtime < _SETTLED_S:
                continue
            with (folder / _LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # it is in use, or somebody else was faster
            continue
