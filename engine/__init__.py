"""Continuous batching over paged KV: token ids in, token ids out."""

from .config import EngineConfig
from .engine import Engine, EngineStats
from .errors import ModelError, RequestError
from .executor import Executor, ModelInfo
from .fingerprint import model_fingerprint
from .request import FinishReason, Progress, Request, SamplingParams, TokenLogprobs

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
    "model_fingerprint",
]
