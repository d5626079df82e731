"""Contents of files, in a folder or an S3-compatible bucket; written and read in pieces, never held whole."""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, ObjectStore, S3Store

from ...schemas.errors import FilesUnavailable

if TYPE_CHECKING:
    from obstore import GetOptions

PIECE_BYTES = 256 * 1024
"""Number of bytes read at once."""

UPLOAD_BYTES = 5 * 2**20
UPLOADS = 2
"""Size of a part in a multipart upload, and the number of parts in flight; an upload takes their product of
memory. S3 accepts no smaller parts."""

RETRY = timedelta(seconds=30)
"""How long requests to a bucket that doesn't answer are retried."""


class Blobs:
    """Contents by path. An object appears when all of it has been written, or not at all.

    Args:
        url: `file:///folder`, or `s3://bucket/prefix` with credentials from the environment.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    @cached_property
    def _store(self) -> ObjectStore:
        return _opened(self._url)

    async def write(self, path: str, pieces: AsyncIterator[bytes]) -> None:
        """Write an object, in place of an earlier one; if `pieces` raises, nothing is kept.

        Raises:
            FilesUnavailable: it can't be written.
        """
        failure: list[BaseException] = []

        async def watched() -> AsyncIterator[bytes]:
            try:
                async for piece in pieces:
                    yield piece
            except BaseException as error:
                # Kept, so that `_refused` lets it pass: a refusal of the upload is no trouble of the store.
                failure.append(error)
                raise

        with _refused("written", failure):
            await obstore.put_async(
                self._store, path, watched(), chunk_size=UPLOAD_BYTES, max_concurrency=UPLOADS
            )

    async def read(self, path: str, part: range | None = None) -> AsyncIterator[bytes]:
        """Yield an object, or a part of it that isn't empty, piece by piece.

        Raises:
            FileNotFoundError: there is none.
            FilesUnavailable: it can't be read.
        """
        with _refused("read"):
            options: GetOptions = {} if part is None else {"range": (part.start, part.stop)}
            found = await obstore.get_async(self._store, path, options=options)
            async for piece in found.stream(min_chunk_size=PIECE_BYTES):
                yield bytes(piece)

    async def delete(self, paths: Iterable[str]) -> None:
        """Delete objects; those that don't exist count as deleted.

        Raises:
            FilesUnavailable: they can't be deleted.
        """
        for path in paths:
            with _refused("deleted"):
                try:
                    await obstore.delete_async(self._store, path)
                except FileNotFoundError:
                    continue

    async def delete_folder(self, folder: str) -> None:
        """Delete all objects in a folder.

        Raises:
            FilesUnavailable: they can't be deleted.
        """
        with _refused("listed"):
            found = [each["path"] async for page in obstore.list(self._store, folder) for each in page]
        await self.delete(found)


def _opened(url: str) -> ObjectStore:
    if url.startswith("file://"):
        folder = Path(unquote(urlsplit(url).path))
        # Users' prompts: nobody else on this machine may read them.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return LocalStore(prefix=folder)
    return S3Store.from_url(url, retry_config={"max_retries": 5, "retry_timeout": RETRY})


@contextmanager
def _refused(what: str, of_caller: Sequence[BaseException] = ()) -> Iterator[None]:
    """Turn the store's errors, whose text may contain paths and keys, into one that names only their kind."""
    try:
        yield
    except (BaseError, OSError) as error:
        missing = isinstance(error, FileNotFoundError) and what != "written"  # there, a bucket is missing
        if missing or error in of_caller or isinstance(error, FilesUnavailable):
            raise
        raise FilesUnavailable(f"a file can't be {what}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    match error:
        case PermissionDeniedError() | UnauthenticatedError() | PermissionError():
            return "the store of files_url refuses these credentials, or they lack the right"
        case FileNotFoundError():
            return "the bucket of files_url isn't there"
    return f"{type(error).__name__}; is the store of files_url there, and has it room?"
