"""Settings of the file store, and of the batches that read and write it."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from .common import CommonSettings
from .queue import LONGEST_KEPT_S

SCHEMES = ("file", "s3")


def _default_url() -> str:
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return (Path(data).absolute() / "headrace" / "files").as_uri()


class FilesSettings(CommonSettings):
    """Where the gateway keeps files, how large they may be and for how long, and how it runs batches.

    Attributes:
        files_url: where uploaded files and the answers of batches are kept: `file:///path`, a folder that all
            gateways share, or `s3://bucket/prefix`, with the usual `AWS_*` variables; by default a folder in
            the user's data folder.
        max_file_bytes: maximum size of an uploaded file.
        file_retention_s: how long a file is kept, unless its upload asks for less.
        batch_in_flight: maximum number of jobs of one batch that are enqueued and not yet answered.
        batch_lease_s: how long a gateway may be silent before another continues its batches.
    """

    files_url: Annotated[str, Field(repr=False)] = ""
    max_file_bytes: Annotated[int, Field(gt=0)] = 200 * 2**20
    file_retention_s: Annotated[float, Field(ge=1, le=LONGEST_KEPT_S)] = 30 * 86_400.0
    batch_in_flight: Annotated[int, Field(ge=1, le=100_000)] = 512
    batch_lease_s: Annotated[float, Field(ge=1, le=3600)] = 15.0

    @field_validator("files_url")
    @classmethod
    def _is_a_store(cls, url: str) -> str:
        if not url:
            return url
        scheme, _, place = url.partition("://")
        if scheme not in SCHEMES or not place:
            raise ValueError("must be file:///folder or s3://bucket/prefix")
        if scheme == "file" and not place.startswith("/"):
            raise ValueError("must have three slashes before the folder, as in file:///srv/files")
        return url

    @property
    def store_url(self) -> str:
        """Where files are kept: `files_url`, or the default folder."""
        return self.files_url or _default_url()
