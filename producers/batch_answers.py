"""The answers of a batch: lines of JSON in a file that later runs continue, or on a pipe or device.

A file has one line per request. If a crash or a full disk tore the last line, it is removed.
"""

import fcntl
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, Self

from ..schemas.errors import HeadraceError
from .batch_lines import STANDARD

BEGINNINGS = (b'{"id": ', b'{"custom_id": ')
"""The beginning of a line of answers."""


@dataclass(slots=True)
class Standing:
    """What earlier runs have answered.

    Attributes:
        answered: the ids of all requests that have an answer.
        failed: the ids of those whose answer is an error.
    """

    answered: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)

    def __or__(self, other: "Standing") -> "Standing":
        # A success in either file outweighs an error in the other.
        succeeded = (self.answered - self.failed) | (other.answered - other.failed)
        return Standing(self.answered | other.answered, (self.failed | other.failed) - succeeded)


class AnswerFile:
    """One file of answers, open and locked until it is closed.

    Args:
        path: the file; `-` is standard output.

    Raises:
        HeadraceError: it holds something else, or another run is writing it.
        OSError: it can't be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept = path != STANDARD and (path.is_file() or not path.exists())
        """Whether a later run can read what was written; reading a pipe or device might never end."""
        self.standing = Standing()
        self._write: Callable[[memoryview], int | None] = sys.stdout.buffer.write
        self._file: FileIO | None = None
        if path == STANDARD:
            return
        try:
            self._open()
            if self.kept:
                self.standing = self._read()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, answer: dict[str, Any]) -> None:
        """Add one answer; when this returns, it is in the file, or with the pipe's reader.

        Raises:
            OSError: it can't be written; the error names the file.
        """
        line = memoryview(_written(answer).encode() + b"\n")
        try:
            while line:
                # A file written without a buffer may take part of a line; standard output says None and takes
                # all.
                line = line[self._write(line) or len(line) :]
            if self._file is None:
                sys.stdout.flush()
        except OSError as error:
            name = "standard output" if self.path == STANDARD else str(self.path)
            raise OSError(error.errno, error.strerror, name) from None

    def drop_failed(self) -> None:
        """Remove the answers that are errors."""
        if not self.standing.failed:
            return
        whole, old = self.path.resolve(), self._file
        part = whole.with_name(f"{whole.name}.part")
        try:
            with whole.open("rb") as answers, part.open("wb") as left:
                left.writelines(text for text in answers if text.strip() and self._answer(text)[1] is None)
                os.fchmod(left.fileno(), whole.stat().st_mode & 0o7777)
                left.flush()
                os.fsync(left.fileno())
            # A rename, of what is on disk: after a crash there is the old file or the new one, never half of
            # either.
            part.replace(whole)
        finally:
            with suppress(FileNotFoundError):
                part.unlink()
        self._open()
        if old is not None:
            old.close()  # and with it its lock; the new file is locked by now
        self.standing = Standing(self.standing.answered - self.standing.failed)

    def _open(self) -> None:
        self._file = self.path.open("ab", buffering=0)
        self._write = self._file.write
        if self.kept:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise HeadraceError(
                    f"another run is writing {self.path}; wait for it, or choose another file"
                ) from None

    def _read(self) -> Standing:
        succeeded: set[str] = set()
        failed: set[str] = set()
        with self.path.open("rb+") as file:
            whole = 0
            for text in file:
                if not text.endswith(b"\n"):
                    self._check_torn(text)
                    break
                whole += len(text)
                if text.strip():
                    custom_id, error = self._answer(text)
                    (succeeded if error is None else failed).add(custom_id)
            # Up to the end of the last whole line.
            file.truncate(whole)
        return Standing(succeeded | failed, failed - succeeded)

    def _check_torn(self, text: bytes) -> None:
        """Refuse to remove anything that isn't the beginning of an answer."""
        begun = any(text.startswith(start) or start.startswith(text) for start in BEGINNINGS)
        with suppress(ValueError):
            json.loads(text)
            begun = False
        if not begun:
            self._answer(text)

    def _answer(self, text: bytes) -> tuple[str, object]:
        try:
            answer = json.loads(text)
            custom_id = answer["custom_id"]
            if isinstance(custom_id, str) and ("response" in answer or "error" in answer):
                return custom_id, answer.get("error")
        except (ValueError, TypeError, KeyError, AttributeError):
            pass
        raise HeadraceError(
            f"{self.path} holds something other than a batch's answers; choose another output file"
        )


def _written(answer: dict[str, Any]) -> str:
    """The answer as JSON in UTF-8; half a character, which a line's id may contain, is escaped."""
    text = json.dumps(answer, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(answer)
    return text
