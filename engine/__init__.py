"""Continuous batching over paged KV: token ids in, token ids out."""

from .config import EngineConfig
from .engine import Engine, EngineStats
from .errors import ModelError, RequestError, is_out_of_memory
from .executor import Executor, ModelInfo
from .fingerprint import model_fingerprint
from .request import FinishReason, Progress, Request, SamplingParams, TokenLogprobs
from .self_test import self_test

__all__ = [
    "Engine",
    "EngineConfig",
    "EngineStats",
    "Executor",
    "FinishReason",
    "ModelError",
    "ModelInfo",
    "Progress",
    "Request",
    "RequestError",
    "SamplingParams",
    "TokenLogprobs",
    "is_out_of_memory",
    "model_fingerprint",
    "self_test",
]
