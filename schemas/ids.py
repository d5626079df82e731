"""Ids of jobs, files and batches: ULIDs, which sort by time and can't be guessed."""

import hashlib
import re
import secrets
import time
import zlib
from uuid import UUID

# The alphabet leaves out i, l, o and u, which are easily misread.
_ULID = re.compile(r"[0-9a-hjkmnp-tv-z]{26}")
_ULID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_job_id(model: str, partition: int = 0) -> str:
    """A fresh job id: `<ULID>.<partition>.<model>`, with `/` in the model's name written `~`.

    The id names its queue, so every key of the job can be derived from it. Ids sort by time.
    """
    return _job_id(_new_ulid(), model, partition)


def new_id(kind: str) -> str:
    """A fresh id `<kind><ULID>`; ids sort by time and nobody can guess one."""
    return f"{kind}{_spelt(_new_ulid())}"


def is_id(kind: str, value: object) -> bool:
    """Whether `new_id(kind)` can have made this id."""
    return isinstance(value, str) and value.startswith(kind) and bool(_ULID.fullmatch(value[len(kind) :]))


def _new_ulid() -> int:
    # 48 bits of milliseconds, then 80 of chance: two ids of one millisecond meet once in 10^24.
    return (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)


def made_s(job_id: str) -> int:
    """When a fresh job id was made, in seconds since the epoch; other ids give any number."""
    value = 0
    for letter in job_id[:10]:
        value = value << 5 | _ULID_ALPHABET.index(letter)
    return value // 1000


def job_id_of(identity: str, model: str, partitions: int = 1) -> str:
    """The job id for something that already has an identity of its own, such as a Celery task's id.

    A UUID keeps its 128 bits; anything else is hashed to as many.
    """
    try:
        value = UUID(identity).int
    except ValueError:
        value = int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=16).digest())
    return _job_id(value, model, zlib.crc32(identity.encode()) % partitions)


def _job_id(value: int, model: str, partition: int) -> str:
    return f"{_spelt(value)}.{partition}.{model.replace('/', '~')}"


def _spelt(value: int) -> str:
    # 26 digits of 5 bits, of which the first has only the upper 3 of the 128.
    return "".join(_ULID_ALPHABET[(value >> shift) & 31] for shift in range(125, -1, -5))
