"""LoRA adapters: names that requests ask for, each a base model computed with an adapter's weights.

A job for an adapter is in its base's queue and says which adapter it is for (`WireJob.adapter`), so one
worker of the base serves all of them in one batch. The adapter's content is named by its fingerprint, as it
was when the job was enqueued: wherever the job continues, it does so with the same weights, or not at all.
"""

import errno
import os
import stat
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import BadPolicy
from .keys import is_model_name
from .wording import in_words

MOST_ADAPTERS = 1024
CONFIG_FILE, FILE = "adapter_config.json", "adapter_model.safetensors"

_MOST_BYTES = {CONFIG_FILE: 1 << 20, FILE: 1 << 34}
"""The largest files that a worker may read."""

_READ_BYTES = 1 << 22

Source = Annotated[str, Field(min_length=1, max_length=1024)]
Fingerprint = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class JobAdapter(BaseModel):
    """The adapter that a job is computed with.

    Attributes:
        name: what the request asked for.
        source: its folder, or a Hub name, as workers can read it.
        fingerprint: of its content.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=128)]
    source: Source
    fingerprint: Fingerprint


class ModelAdapter(BaseModel):
    """An adapter that requests can ask for.

    Attributes:
        name: what requests ask for, instead of a model.
        base: the model that it changes.
        source: its folder, or a Hub name, as workers can read it.
        fingerprint: of its content.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    base: str
    source: Source
    fingerprint: Fingerprint

    @classmethod
    def make(cls, name: str, base: str, source: str, fingerprint: str) -> Self:
        """Make a validated adapter.

        Raises:
            BadPolicy: naming what is wrong.
        """
        for field, value in (("name", name), ("base", base)):
            if not isinstance(value, str) or not is_model_name(value):
                raise BadPolicy(
                    f"{field} = {value!r:.200}: must be like a model's name: letters, digits and _ . / -, "
                    "at most 128"
                )
        if name == base:
            raise BadPolicy(f"name = {name!r}: is the base model's own; give the adapter another")
        try:
            return cls(name=name, base=base, source=source, fingerprint=fingerprint)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise BadPolicy(f"{first['loc'][0]} = {first['input']!r:.200}: {in_words(first)}") from None

    @classmethod
    def read(cls, record: bytes | str | None) -> Self | None:
        """The adapter in Redis, if there is one and it can be read."""
        try:
            return None if record is None else cls.model_validate_json(record)
        except ValidationError:
            return None

    def to_wire(self) -> str:
        """The adapter as JSON."""
        return self.model_dump_json()

    @property
    def of_job(self) -> JobAdapter:
        """What a job says of it."""
        return JobAdapter(name=self.name, source=self.source, fingerprint=self.fingerprint)


def read_adapters(records: Mapping[Any, Any]) -> dict[str, ModelAdapter]:
    """The adapters in Redis by name; unreadable ones are left out."""
    found = [ModelAdapter.read(record) for record in records.values()]
    readable = [adapter for adapter in found if adapter is not None]
    return {adapter.name: adapter for adapter in sorted(readable, key=lambda adapter: adapter.name)}


def folder_fingerprint(folder: Path) -> str:
    """The fingerprint of the adapter in a PEFT folder.

    BLAKE2b-128, in hex, of the length of adapter_config.json as 8 bytes (little-endian), that file, and
    adapter_model.safetensors.

    Raises:
        BadPolicy: a file is missing, can't be read, or is larger than workers read.
    """
    digest = blake2b(digest_size=16)
    for name in (CONFIG_FILE, FILE):
        try:
            with _opened(folder, name) as file:
                if name == CONFIG_FILE:
                    digest.update(os.fstat(file.fileno()).st_size.to_bytes(8, "little"))
                while block := file.read(_READ_BYTES):
                    digest.update(block)
        except OSError as error:
            raise BadPolicy(
                f"source = {str(folder)!r}: its {name} can't be read ({error.strerror}); give the folder "
                "that PEFT's save_pretrained made, or the fingerprint of one that only workers can read"
            ) from None
    return digest.hexdigest()


def _opened(folder: Path, name: str) -> BinaryIO:
    """One of the folder's files, whose reading comes to an end."""
    # Nobody may ever write into a pipe, so it isn't waited for.
    file = os.fdopen(os.open(folder / name, os.O_RDONLY | os.O_NONBLOCK), "rb")
    found = os.fstat(file.fileno())
    if stat.S_ISREG(found.st_mode) and found.st_size <= _MOST_BYTES[name]:
        return file
    file.close()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it isn't a regular file")
    raise BadPolicy(
        f"source = {str(folder)!r}: its {name} has {found.st_size} bytes; "
        f"at most {_MOST_BYTES[name]} are read"
    )
