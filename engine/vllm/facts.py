"""What a vLLM server says about itself: its version, model and room."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError
from .errors import Interrupted, ServerRefused
from .http import ServerAddress, ServerRoutes

GENERATE = "/inference/v1/generate"
ABORT = "/inference/v1/abort_requests"

OLDEST = (0, 32)
"""The first version whose route streams token ids with log-probabilities and says how it ended."""

FIRST_S = 300.0
"""How long the first answer may take, for which some of vLLM is still compiled."""

_READ = {
    "process_start_time_seconds",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:num_preemptions_total",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
}

_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(slots=True, frozen=True)
class ServerLoad:
    """How busy a server is.

    Attributes:
        started: when its process started, which tells it from a later one at the same address.
        running, waiting: requests of everybody who uses it.
        used: share of its KV cache that is in use.
        preemptions, prefix_queries, prefix_hits: counters since its start.
    """

    started: float
    running: int
    waiting: int
    used: float
    preemptions: int
    prefix_queries: int
    prefix_hits: int


@dataclass(slots=True, frozen=True)
class ServerFacts:
    """A server, as long as it doesn't restart.

    Attributes:
        version: vLLM's.
        model: the name that requests ask for.
        root: the folder or Hub name that it loaded.
        context_tokens: maximum length of prompt + output.
        block_tokens, blocks: tokens per KV block, and how many blocks requests can have.
        started: as in `ServerLoad`.
    """

    version: str
    model: str
    root: str
    context_tokens: int
    block_tokens: int
    blocks: int
    started: float


async def read_facts(http: ServerRoutes, address: ServerAddress, wanted: str) -> ServerFacts:
    """Ask a server what it is, and check that it has what is needed.

    Args:
        http: the server.
        address: where it is, for messages.
        wanted: the folder or Hub name of the model that has to be there.

    Raises:
        ModelError: it isn't vLLM, is too old, lacks the routes, or serves another model.
        Interrupted: it can't be reached.
    """
    try:
        version = _object(await http.call("/version")).get("version")
        models = _object(await http.call("/v1/models")).get("data")
        metrics = (await http.call("/metrics")).decode(errors="replace")
    except ServerRefused as error:
        if error.status in {401, 403}:
            raise _wants_a_key(address) from None
        raise ModelError(f"{address} is no vLLM server: status {error.status}: {error}") from None
    if not isinstance(version, str) or not isinstance(models, list):
        raise ModelError(f"{address} is no vLLM server: it doesn't say its version and its models")
    _check_version(address, version)
    await _check_route(http, address, version)
    model = _model(models, address, wanted)
    block_tokens, blocks = _room(metrics, address)
    return ServerFacts(
        version=version,
        model=str(model["id"]),
        root=str(model.get("root") or model["id"]),
        context_tokens=int(model["max_model_len"]),
        block_tokens=block_tokens,
        blocks=blocks,
        started=load_of(metrics).started,
    )


def load_of(metrics: str) -> ServerLoad:
    """How busy the server is whose metrics these are.

    Raises:
        Interrupted: one of them is no number.
    """
    sums: dict[str, float] = {}
    for name, _, value in _SAMPLE.findall(metrics):
        if name in _READ:
            sums[name] = sums.get(name, 0.0) + _number(name, value)
    engines = max(1, len(re.findall(r"^vllm:kv_cache_usage_perc\{", metrics, re.MULTILINE)))
    return ServerLoad(
        started=sums.get("process_start_time_seconds", 0.0),
        running=int(sums.get("vllm:num_requests_running", 0)),
        waiting=int(sums.get("vllm:num_requests_waiting", 0)),
        used=sums.get("vllm:kv_cache_usage_perc", 0.0) / engines,
        preemptions=int(sums.get("vllm:num_preemptions_total", 0)),
        prefix_queries=int(sums.get("vllm:prefix_cache_queries_total", 0)),
        prefix_hits=int(sums.get("vllm:prefix_cache_hits_total", 0)),
    )


def _number(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise Interrupted(f"its metric {name} is {value[:50]!r}, which is no number")
    return number


def _object(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _check_version(address: ServerAddress, version: str) -> None:
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    # A build from source says 0.1.dev…, which is older than nothing.
    if numbers < OLDEST and "dev" not in version:
        needed = ".".join(map(str, OLDEST))
        raise ModelError(f"{address} runs vLLM {version}; headrace needs {needed} or newer")


def _wants_a_key(address: ServerAddress) -> ModelError:
    return ModelError(f"{address} wants an API key: set VLLM_API_KEY to the one that it was started with")


async def _check_route(http: ServerRoutes, address: ServerAddress, version: str) -> None:
    """Ask for nothing: a server with the route answers that the request is invalid."""
    try:
        await http.call(GENERATE, {})
    except ServerRefused as error:
        if error.status in {400, 422}:
            return
        if error.status in {401, 403} and "scale-out" not in str(error):
            raise _wants_a_key(address) from None
    raise ModelError(
        f"{address} (vLLM {version}) has no {GENERATE}; start it with --enable-scale-out or --tokens-only"
    )


async def keys_noise_by_position(http: ServerRoutes, facts: ServerFacts) -> bool:
    """Whether a sampled answer that is continued is what it would have been, found by trying.

    vLLM's newer model runner draws noise from seed and position, its older one from a generator for each
    request. Which of them a server has, it doesn't say.
    """

    async def sample(prompt: list[int], most: int) -> list[int]:
        ask = {"temperature": 2.0, "seed": 11, "max_tokens": most, "ignore_eos": True, "detokenize": False}
        body = {"model": facts.model, "token_ids": prompt, "sampling_params": ask}
        answer = _object(await http.call(GENERATE, body, within_s=FIRST_S))
        try:
            token_ids: list[int] = answer["choices"][0]["token_ids"]
            if all(type(each) is int for each in token_ids):
                return token_ids
        except (KeyError, IndexError, TypeError):
            pass
        raise ModelError(f"the server's {GENERATE} doesn't answer with tokens")

    most = min(16, facts.context_tokens - 2)
    whole = await sample([1, 2], most)
    return await sample([1, 2, *whole[: most // 2]], most - most // 2) == whole[most // 2 :]


def _model(models: list[Any], address: ServerAddress, wanted: str) -> dict[str, Any]:
    known = [each for each in models if isinstance(each, dict) and isinstance(each.get("id"), str)]
    base = [each for each in known if not each.get("parent")]  # an adapter names its model
    for each in base:
        names = {each["id"], str(each.get("root") or each["id"]).rstrip("/").rpartition("/")[2]}
        if isinstance(each.get("max_model_len"), int) and names & {wanted, Path(wanted).name}:
            return each
    known_names = ", ".join(str(each["id"]) for each in base) or "none"
    raise ModelError(
        f"{address} doesn't serve {wanted!r}, only: {known_names}; set model to what it loaded, or start it "
        f"with --served-model-name {Path(wanted).name}"
    )


def _room(metrics: str, address: ServerAddress) -> tuple[int, int]:
    tokens, blocks = 0, 0
    for name, labels, _ in _SAMPLE.findall(metrics):
        if name == "vllm:cache_config_info":
            of = dict(_LABEL.findall(labels))
            try:
                tokens = int(of["block_size"])
                blocks += int(of["num_gpu_blocks"]) - 1  # the first of them stands for nothing
            except (KeyError, ValueError):
                break
    if tokens < 1 or blocks < 1:
        raise ModelError(
            f"{address} doesn't say how large its KV cache is (vllm:cache_config_info in /metrics); "
            "start it without --disable-log-stats"
        )
    return tokens, blocks
