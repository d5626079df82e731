"""Translates a job's parameters to the engine's."""

import hashlib
from dataclasses import fields
from typing import Any

from ....engine import SamplingParams
from ....schemas.wire import WireJob


def sampling_params(job: WireJob, job_id: str) -> SamplingParams:
    """How to sample; a job without a seed gets one that every worker of it agrees on."""
    asked: dict[str, Any] = {field.name: getattr(job, field.name) for field in fields(SamplingParams)}
    if job.seed is None:
        asked["seed"] = _seed_of(job_id)
    return SamplingParams(**asked)


def _seed_of(job_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(job_id.encode(), digest_size=8).digest()) >> 1
