"""Continuous batching over paged KV: token ids in, token ids out.

Names are imported when they are first used: planning steps (scheduler, pages, pacing) and describing engines
needs no torch, so importing only that doesn't wait for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import EngineConfig, EngineServer
    from .engine import Engine
    from .errors import ModelError, RequestError, UnknownEngine, is_out_of_memory
    from .fingerprint import model_fingerprint
    from .first_tokens import self_test
    from .parameters import SamplingParams
    from .protocol import EngineModelInfo, EngineProtocol, EngineStats
    from .registry import EngineSpec, engine_spec, register
    from .request import Adapter, FinishReason, Pooling, Progress, Request, TokenConstraint, TokenLogprobs
    from .step_input import Executor

__all__ = [
    "Adapter",
    "Engine",
    "EngineConfig",
    "EngineModelInfo",
    "EngineProtocol",
    "EngineServer",
    "EngineSpec",
    "EngineStats",
    "Executor",
    "FinishReason",
    "ModelError",
    "Pooling",
    "Progress",
    "Request",
    "RequestError",
    "SamplingParams",
    "TokenConstraint",
    "TokenLogprobs",
    "UnknownEngine",
    "engine_spec",
    "is_out_of_memory",
    "model_fingerprint",
    "register",
    "self_test",
]

_HOMES = {
    "config": ("EngineConfig", "EngineServer"),
    "engine": ("Engine",),
    "errors": ("ModelError", "RequestError", "UnknownEngine", "is_out_of_memory"),
    "fingerprint": ("model_fingerprint",),
    "first_tokens": ("self_test",),
    "parameters": ("SamplingParams",),
    "protocol": ("EngineProtocol", "EngineStats", "EngineModelInfo"),
    "registry": ("EngineSpec", "engine_spec", "register"),
    "request": (
        "Adapter",
        "FinishReason",
        "Pooling",
        "Progress",
        "Request",
        "TokenConstraint",
        "TokenLogprobs",
    ),
    "step_input": ("Executor",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
