"""Translates a job's parameters to the engine's."""

import hashlib

from ....engine import SamplingParams
from ....schemas.wire import WireJob


def sampling_params(job: WireJob, job_id: str) -> SamplingParams:
    """How to sample; a job without a seed gets one that every worker of it agrees on."""
    return SamplingParams(
        max_tokens=job.max_tokens,
        min_tokens=job.min_tokens,
        temperature=job.temperature,
        top_k=job.top_k,
        top_p=job.top_p,
        min_p=job.min_p,
        presence_penalty=job.presence_penalty,
        frequency_penalty=job.frequency_penalty,
        repetition_penalty=job.repetition_penalty,
        logit_bias=dict(job.logit_bias),
        seed=_seed_of(job_id) if job.seed is None else job.seed,
        stop_token_ids=job.stop_token_ids,
        ignore_eos=job.ignore_eos,
        logprobs=job.logprobs,
    )


def _seed_of(job_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(job_id.encode(), digest_size=8).digest()) >> 1
