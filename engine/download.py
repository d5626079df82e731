"""Downloading a model from the Hugging Face Hub, with progress, and errors that name the way out.

`huggingface_hub` does the download. It keeps each file under its etag in the cache's `blobs`, as
`<etag>.incomplete` or `<etag>.<random>.incomplete` while it arrives: looking there tells how far each file
has come, whichever of the library's transports brings it.

A download that breaks off continues: files that have arrived stay, and as long as each try brings something,
another follows.
"""

import errno
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from .errors import ModelError

WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "tokenizer*")
UNWANTED = ("*/*.safetensors", "*/*.json", "consolidated*")
"""Copies of the weights in other layouts, which would double the download."""

EVERY_S = 5.0
"""How often progress is reported."""

LOOK_S = 0.2
"""How often it is looked at, so that what a short try brought is seen before it is dropped."""

TRIES = 20
"""How many times a download that breaks off is continued at most."""

_MORE_SPACE = "free some, or set HF_HOME to a folder on a larger disk"
_PAUSE_S = 2.0
_GB = 1e9

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Arriving:
    """A file that is being downloaded."""

    file: str
    done_bytes: int
    total_bytes: int

    def __str__(self) -> str:
        return f"{self.file} {_of(self.done_bytes, self.total_bytes)}"


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """How far a model's download has come.

    Attributes:
        done_bytes, total_bytes: of all files together.
        files_done, files: how many have arrived, and of how many.
        arriving: the files that are on their way.
    """

    model: str
    done_bytes: int
    total_bytes: int
    files_done: int
    files: int
    arriving: tuple[Arriving, ...] = ()

    def __str__(self) -> str:
        parts = [f"{_of(self.done_bytes, self.total_bytes)}, {self.files_done} of {self.files} files"]
        return ", ".join([*parts, *map(str, self.arriving)])


def _of(done: int, total: int) -> str:
    unit, size = ("GB", _GB) if total >= _GB else ("MB", 1e6)
    return f"{done / size:.1f} of {total / size:.1f} {unit}"


def log_progress(progress: DownloadProgress) -> None:
    """Log how far a download has come."""
    logger.info("downloading %s: %s", progress.model, progress)


def download(
    model: str, report: Callable[[DownloadProgress], None] = log_progress, every_s: float = EVERY_S
) -> Path:
    """The folder in the Hub's cache with a model's files, all of which are there on return.

    If the Hub can't be reached, what an earlier download left in the cache will do if it is complete.

    Args:
        model: the Hub name.
        report: is told how far it has come, in this thread.
        every_s: how often.

    Raises:
        ModelError: it can't be downloaded; the message says why, and what to do.
    """
    files = _listed(model)
    if files is not None:
        _refuse_without_space(files)
    for tried in range(TRIES):
        before = files.begin() if files else 0
        try:
            with _without_bars():
                return _fetch(model, files, report, every_s)
        except Exception as error:
            brought = files is not None and files.most_bytes > before
            if tried + 1 == TRIES or not brought or not _may_pass(error):
                raise ModelError(_in_words(model, error)) from error
            logger.warning("the download of %s broke off (%s) and continues", model, type(error).__name__)
            time.sleep(_PAUSE_S)
    raise AssertionError


class _Files:
    """A model's files as the Hub lists them, and how many of their bytes are in the cache.

    Attributes:
        most_bytes: the most that have been there at once in this try: what of a file has arrived is dropped
            when its download fails.
    """

    def __init__(self, model: str, sizes: dict[str, tuple[str, int]]) -> None:
        from huggingface_hub import constants

        self.model, self._sizes = model, sizes
        self.cache = Path(constants.HF_HUB_CACHE)
        self._blobs = self.cache / f"models--{model.replace('/', '--')}" / "blobs"
        self._since = time.time() - 1.0  # file systems keep times coarsely
        self.most_bytes = 0

    def begin(self) -> int:
        """Begin a try; return how many bytes are there."""
        self.most_bytes = 0
        return self.progress().done_bytes

    def progress(self) -> DownloadProgress:
        """What is there now."""
        there = {etag for etag in self._sizes if (self._blobs / etag).exists()}
        parts = {etag: size for etag, size in self._parts() if etag not in there}
        arriving = tuple(
            Arriving(name, min(parts[etag], size), size)
            for etag, (name, size) in self._sizes.items()
            if etag in parts
        )
        done = sum(self._sizes[etag][1] for etag in there) + sum(part.done_bytes for part in arriving)
        self.most_bytes = max(self.most_bytes, done)
        return DownloadProgress(
            self.model,
            done,
            sum(size for _, size in self._sizes.values()),
            len(there),
            len(self._sizes),
            arriving,
        )

    def _parts(self) -> Iterator[tuple[str, int]]:
        for path in sorted(self._blobs.glob("*.incomplete")):
            etag = path.name.partition(".")[0]
            with suppress(OSError):  # it has just arrived
                found = path.stat()
                if etag in self._sizes and found.st_mtime >= self._since:  # older ones are left from a kill
                    yield etag, found.st_size


def _listed(model: str) -> _Files | None:
    """What the Hub lists; None if it doesn't say, which the download itself will complain of."""
    from huggingface_hub import HfApi

    try:
        found = HfApi().model_info(model, files_metadata=True, timeout=10.0).siblings or []
    except Exception as error:
        logger.debug("the Hub lists no files of %s: %s", model, error)
        return None
    sizes = {}
    for file in filter(_is_wanted, found):
        etag = file.lfs.sha256 if file.lfs else file.blob_id
        if etag and file.size is not None:
            sizes[etag] = file.rfilename, file.size
    return _Files(model, sizes)


def _is_wanted(file: Any) -> bool:
    # As `snapshot_download` takes the patterns: a * stands for slashes too.
    def matches(patterns: Iterable[str]) -> bool:
        return any(fnmatchcase(file.rfilename, pattern) for pattern in patterns)

    return matches(WANTED) and not matches(UNWANTED)


def _refuse_without_space(files: _Files) -> None:
    progress = files.progress()
    missing = progress.total_bytes - progress.done_bytes
    folder = next(folder for folder in (files.cache, *files.cache.parents) if folder.exists())
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise ModelError(
            f"{files.model!r} needs {missing / _GB:.1f} GB more in {files.cache}, which has "
            f"{free / _GB:.1f} GB free; {_MORE_SPACE}"
        )


def _fetch(
    model: str, files: _Files | None, report: Callable[[DownloadProgress], None], every_s: float
) -> Path:
    from huggingface_hub import snapshot_download

    pool = ThreadPoolExecutor(1, "headrace-download")
    try:
        fetched = pool.submit(
            snapshot_download, model, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED)
        )
        said, due = files and files.progress(), time.monotonic() + every_s
        while not wait([fetched], min(every_s, LOOK_S)).done:
            if files and (now := files.progress()) != said and time.monotonic() >= due:
                report(now)
                said, due = now, time.monotonic() + every_s
        folder = Path(fetched.result())
        if files and (now := files.progress()) != said:
            report(now)
        return folder
    finally:
        pool.shutdown(wait=False)


@contextmanager
def _without_bars() -> Iterator[None]:
    """Leave the terminal to the log."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _may_pass(error: Exception) -> bool:
    """Whether it came of the network, so that another try may go further."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if isinstance(error, HfHubHTTPError):
        return error.response is not None and error.response.status_code >= 500
    # The client's own classes for lost connections differ between its versions; none is a ValueError.
    return not isinstance(error, ValueError | LocalEntryNotFoundError) and not _is_full(error)


def _is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}


def _in_words(model: str, error: Exception) -> str:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    hub, cache = constants.ENDPOINT, constants.HF_HUB_CACHE
    cause = error.__cause__ if isinstance(error.__cause__, HfHubHTTPError) else error
    if _is_full(error):
        return f"there is no space left in {cache} for {model!r}; {_MORE_SPACE}"
    if isinstance(cause, GatedRepoError):
        return (
            f"{model!r} is gated: accept its terms on {hub}/{model}, and give the worker a token of that "
            "account in HF_TOKEN"
        )
    if isinstance(cause, RepositoryNotFoundError):
        return (
            f"{model!r} is neither a local folder nor a model that {hub} shows to this worker; check the "
            "name, or, if the model is private, give the worker a token in HF_TOKEN"
        )
    if isinstance(error, LocalEntryNotFoundError):
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{hub} can't be reached"
        return (
            f"{why}, and {cache} holds no whole copy of {model!r}; download it where the Hub can be reached, "
            "set HF_ENDPOINT to a mirror, or give a local folder"
        )
    if isinstance(cause, HfHubHTTPError) and cause.response is not None:
        return f"{model!r} can't be downloaded: {hub} answered with status {cause.response.status_code}"
    return f"{model!r} can't be downloaded from {hub}: {type(error).__name__}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    # Without what follows a question mark: signed URLs carry their signature there.
    return " ".join(part.partition("?")[0] for part in str(error).partition("\n")[0].split())
