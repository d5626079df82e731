"""Engines by name: headrace's own, vLLM, and those that other packages provide.

A package offers an engine under an entry point of the group `headrace.engines`; its object is called with an
`EngineConfig` and returns an engine, or is an `EngineSpec`:

    [project.entry-points."headrace.engines"]
    mine = "my_package.engine:load"

Code that runs before the engine is loaded may call `register` instead.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from .config import EngineConfig
from .errors import ModelError, UnknownEngine
from .protocol import EngineProtocol

GROUP = "headrace.engines"
DEFAULT = "headrace"
VLLM = "vllm"


@dataclass(slots=True, frozen=True)
class EngineSpec:
    """How an engine is made.

    Attributes:
        load: makes it; raises `ModelError` if the model can't be loaded or doesn't fit.
        fingerprint: computes the fingerprint of everything that decides the tokens, by which workers know
            whether they may continue each other's jobs. It runs beside `load`, in its own thread. None means
            the digest of the checkpoint as headrace's own engine reads it.
        deterministic: whether it keeps what `EngineConfig.deterministic` says; if not, it is refused where
            that is asked for.
    """

    load: Callable[[EngineConfig], EngineProtocol]
    fingerprint: Callable[[EngineConfig], str] | None = None
    deterministic: bool = False

    def fingerprint_of(self, config: EngineConfig) -> str:
        """The fingerprint of the model that `config` names, on this engine."""
        if self.fingerprint is not None:
            return self.fingerprint(config)
        from .fingerprint import model_fingerprint

        return model_fingerprint(config)


_registered: dict[str, EngineSpec] = {}


def register(
    name: str,
    load: Callable[[EngineConfig], EngineProtocol],
    *,
    fingerprint: Callable[[EngineConfig], str] | None = None,
    deterministic: bool = False,
) -> None:
    """Register an engine in this process under a name, replacing an earlier one of that name.

    Args:
        name: what `headrace worker --engine` calls it.
        load: as in `EngineSpec`.
        fingerprint: as in `EngineSpec`.
        deterministic: as in `EngineSpec`.
    """
    _registered[name] = EngineSpec(load, fingerprint, deterministic)


def engine_spec(name: str, *, deterministic: bool = False) -> EngineSpec:
    """The engine of this name: one that was registered, or else an installed package's.

    Args:
        name: as in `register`.
        deterministic: whether it has to be one that can be deterministic.

    Raises:
        UnknownEngine: there is none, or it can't be imported; the message lists those that exist.
        ModelError: it can't be deterministic.
    """
    spec = _found(name)
    if deterministic and not spec.deterministic:
        raise ModelError(
            f"engine {name!r} has no deterministic mode; leave deterministic unset, or use engine {DEFAULT!r}"
        )
    return spec


def _found(name: str) -> EngineSpec:
    if name in _registered:
        return _registered[name]
    if name == DEFAULT:
        return _own()
    if name == VLLM:
        return _vllm()
    offered = {point.name: point for point in entry_points(group=GROUP)}
    if name in offered:
        return _imported(offered[name])
    there = ", ".join(sorted({DEFAULT, VLLM, *_registered, *offered}))
    raise UnknownEngine(
        f"there is no engine {name!r}, only: {there}. A package adds one through an entry point in {GROUP}"
    )


def _own() -> EngineSpec:
    from .engine import Engine
    from .fingerprint import model_fingerprint

    return EngineSpec(Engine, model_fingerprint, deterministic=True)


def _vllm() -> EngineSpec:
    from .vllm.spec import OpenedServer

    opening = OpenedServer()
    return EngineSpec(opening.load, opening.fingerprint)


def _imported(point: EntryPoint) -> EngineSpec:
    try:
        found = point.load()
    except Exception as error:
        raise UnknownEngine(
            f"engine {point.name!r} ({point.value}) can't be imported: {type(error).__name__}: {error}"
        ) from error
    return found if isinstance(found, EngineSpec) else EngineSpec(found)
