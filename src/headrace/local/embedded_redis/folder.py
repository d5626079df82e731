"""Temporary data folders. They hold prompts and outputs, so none must stay behind.

A process that is killed can't remove its own. So each folder is locked while its process lives, and a process
that makes one first removes those that are no longer locked. The lock file is removed last, so that if a
process is killed while it removes a folder, the next one removes the rest.
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
"""A folder younger than this may not be locked yet."""


class TemporaryFolder:
    """A folder that belongs to this process until `remove`."""

    def __init__(self) -> None:
        _remove_abandoned(Path(tempfile.gettempdir()))
        self._folder = tempfile.TemporaryDirectory(prefix=_PREFIX)
        self.path = Path(self._folder.name)
        self._lock = (self.path / _LOCK).open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Delete it with everything in it, even if another process has deleted some of that."""
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
                # Both must be free: the process's that made the folder, and a server's that may have survived
                # it.
                for name in (_LOCK, SERVER_LOCK):  # a server may run on it again, as on any folder
                    if name == _LOCK or (folder / name).exists():
                        lock = locks.enter_context((folder / name).open("rb"))
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _empty(folder)
                shutil.rmtree(folder)
        except OSError:  # it is in use, or another process was faster
            continue


def _empty(folder: Path) -> None:
    """Delete all but the owner's lock."""
    with suppress(FileNotFoundError):
        for child in folder.iterdir():
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            elif child.name != _LOCK:
                child.unlink()
