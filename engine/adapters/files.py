"""The files of a PEFT folder and their fingerprint: what makes two adapters the same, wherever they are.

The fingerprint is BLAKE2b-128, in hex, of the length of adapter_config.json as 8 bytes (little-endian), that
file, and adapter_model.safetensors.
"""

import os
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from ..errors import ModelError

CONFIG_FILE, FILE = "adapter_config.json", "adapter_model.safetensors"

MOST_CONFIG_BYTES = 1 << 20
MOST_FILE_BYTES = 1 << 34


@dataclass(slots=True, frozen=True)
class AdapterFiles:
    """The content of a folder's files, and its fingerprint."""

    config: bytes
    tensors: bytes

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits."""
        digest = blake2b(len(self.config).to_bytes(8, "little"), digest_size=16)
        digest.update(self.config)
        digest.update(self.tensors)
        return digest.hexdigest()


def read_files(folder: Path, most_bytes: int = MOST_FILE_BYTES) -> AdapterFiles:
    """Read a folder's files whole, so that what is checked is what is used, even if they are replaced.

    Raises:
        ModelError: one isn't there, or is too large.
    """
    config = _read(folder / CONFIG_FILE, MOST_CONFIG_BYTES)
    if (folder / "adapter_model.bin").exists() and not (folder / FILE).exists():
        raise ModelError(
            f"{folder} holds no {FILE}; its pickled adapter_model.bin is never loaded (it could run code): "
            "save it with safe_serialization=True"
        )
    return AdapterFiles(config, _read(folder / FILE, most_bytes))


def adapter_fingerprint(folder: Path) -> str:
    """The fingerprint of a folder's adapter.

    Raises:
        ModelError: it holds none.
    """
    return read_files(folder).fingerprint


def _read(path: Path, most_bytes: int) -> bytes:
    if not path.is_file():
        raise ModelError(
            f"{path.parent} holds no {path.name}; give the folder that PEFT's save_pretrained made"
        )
    with path.open("rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > most_bytes:
            raise ModelError(f"{path} has {size} bytes; at most {most_bytes} are read")
        return file.read(size)
