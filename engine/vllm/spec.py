"""How a vLLM engine is loaded, and what its tokens depend on."""

import json
from collections.abc import Iterator
from concurrent.futures import Future
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ..config import EngineConfig
from ..errors import ModelError
from ..fingerprint import count_numbers, weights_of
from ..hub import model_folder
from ..models.checkpoint import shards
from ..protocol import EngineModelInfo
from .engine import VllmEngine
from .facts import ServerFacts
from .server import VllmServer

GENERATION = 1
"""To be raised when this adapter makes vLLM choose other tokens."""


class OpenedServer:
    """One engine process's server: it is opened once, and asked for the fingerprint meanwhile."""

    def __init__(self) -> None:
        self._facts: Future[ServerFacts] = Future()

    def load(self, config: EngineConfig) -> VllmEngine:
        """Start the server or find it running."""
        try:
            server = VllmServer(config)
            try:
                engine = VllmEngine(config, server, _model_info(config, server.facts))
            except BaseException:
                server.close()
                raise
        except BaseException as error:
            self._facts.set_exception(error)
            raise
        self._facts.set_result(server.facts)
        return engine

    def fingerprint(self, config: EngineConfig) -> str:
        """The fingerprint of what it serves, once it is open."""
        return fingerprint(config, self._facts.result())


def fingerprint(config: EngineConfig, facts: ServerFacts) -> str:
    """16 hexadecimal digits for the model, on this vLLM.

    The weights are read if they are in a folder here. A running server may have them elsewhere: then its word
    counts, which is the folder's or Hub's name that it loaded.
    """
    folder = model_folder(config.model) if config.server.url is None else _here(config.model)
    identity = {
        "generation": GENERATION,
        "version": facts.version,
        "args": list(config.server.args),
        "dtype": config.dtype,
        "kv_dtype": config.kv_dtype,
        "root": None if folder else facts.root,
        "config": _configs(folder) if folder else None,
        "weights": weights_of(folder, config.threads or 4) if folder else None,
    }
    return blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=8).hexdigest()


def _here(model: str) -> Path | None:
    path = Path(model)
    return path if path.is_dir() and any(path.glob("*.safetensors")) else None


def _configs(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in _files(folder)]


def _files(folder: Path) -> Iterator[Path]:
    for name in ("config.json", "generation_config.json"):
        if (folder / name).is_file():
            yield folder / name


def _model_info(config: EngineConfig, facts: ServerFacts) -> EngineModelInfo:
    """What the model's own files say about it."""
    folder = model_folder(config.model)
    try:
        found = _configs(folder)
        about: dict[str, Any] = found[0] | {"generation": found[1] if len(found) > 1 else {}}
        text = about.get("text_config") or about
        vocab = int(text["vocab_size"])
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ModelError(
            f"{config.model!r} has no config.json that says its vocab_size: {error!r}"
        ) from error
    ends = about["generation"].get("eos_token_id", text.get("eos_token_id", about.get("eos_token_id")))
    return EngineModelInfo(
        family=str(about.get("model_type", "unknown")),
        vocab_size=vocab,
        context_tokens=facts.context_tokens,
        eos_token_ids=tuple(sorted(set(ends if isinstance(ends, list) else [] if ends is None else [ends]))),
        num_parameters=_parameters(folder),
        dtype=config.dtype if config.dtype != "auto" else str(text.get("dtype") or text.get("torch_dtype")),
    )


def _parameters(folder: Path) -> int:
    """The number of stored numbers, 0 where the weights aren't here."""
    try:
        return sum(map(count_numbers, shards(folder)))
    except ModelError:
        return 0
