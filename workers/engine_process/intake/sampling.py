"""Translates a job's parameters to the engine's."""

import hashlib
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from ....engine import SamplingParams
from ....schemas.choices import seed_of_choice
from ....schemas.wire import WireJob


def sampling_params(
    job: WireJob, job_id: str, bad_words: Iterable[Iterable[int]] = (), choice: int = 0
) -> SamplingParams:
    """How to sample; a job without a seed gets one that every worker of it agrees on.

    `bad_words` are the token ids of the job's own; `choice` says which of its answers this is for.
    """
    asked: dict[str, Any] = {field.name: getattr(job, field.name) for field in fields(SamplingParams)}
    asked["bad_words"] = tuple(map(tuple, bad_words))
    seed = _seed_of(job_id) if job.seed is None else job.seed
    asked["seed"] = seed_of_choice(seed, choice)
    return SamplingParams(**asked)


def _seed_of(job_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(job_id.encode(), digest_size=8).digest()) >> 1
