"""The engine process: one engine, its side of the queue, and the loop between them.

`headrace worker` starts it as `python -m headrace.workers.engine_process.main <fd>`; its instructions arrive
on the inherited pipe.
"""

import gc

if __name__ == "__main__":
    gc.disable()  # while modules load: their objects stay, and scanning them again and again takes 0.4 s
    from ...telemetry import logs

    logs.configure("info")  # a failure to load is logged as an event too

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import structlog
import torch
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError

from ...engine import (
    EngineConfig,
    EngineProtocol,
    EngineServer,
    EngineSpec,
    ModelError,
    engine_spec,
    is_out_of_memory,
    self_test,
)
from ...engine.download import DownloadProgress
from ...engine.hub import model_folder
from ...engine.registry import DEFAULT
from ...schemas import keys
from ...schemas.errors import BadSetting, BrokerUnavailable
from ...schemas.redis.connection import broker_errors, check_version, connect, connection_lost, server_info
from ...schemas.scripts import ModelChange
from ...telemetry import logs
from .. import metrics
from ..models import check_files, name_to_serve, resolve_model
from ..settings import WorkerSettings, socket_timeout_s
from ..supervision.lifeline import join_host
from ..supervision.pipe import EnginePipe, Fatal, LaunchEngine, Ready, Starting
from .flush import Queue
from .intake.lanes import QUICK_S, Intake
from .intake.places import Places
from .intake.process import Order
from .registration import Registration
from .runner import Runner
from .text import Grammars, TokenizerError, TokenText
from .text.pairs import read_template, words_of

SWITCH_S = 0.0005
"""The loop releases the interpreter at every kernel; the I/O thread must not keep it for the usual 5 ms."""

_LONGEST = 1000
"""Maximum length of a reason, because some libraries' errors are very long."""

REDIS_WAIT_S = 60.0
"""How long the start waits for an unreachable Redis before it has failed."""

REDIS_PAUSE_S = 8.0
"""The longest pause between two tries while starting."""

log = structlog.get_logger("headrace.workers.engine_process.main")


def main(pipe_fd: int) -> int:
    """Serve until told to stop; return the process's exit status."""
    logs.configure(
        "info"
    )  # the level that the instructions will set, in case the host is gone before sending them
    pipe, launch = join_host(pipe_fd)
    settings = WorkerSettings.model_validate_json(launch.settings)
    name = name_to_serve(settings.model, settings.served_name)
    if launch.metrics_dir is not None:
        metrics.share(launch.metrics_dir, metrics.engine_place(launch.index))
    logs.configure(settings.log_level, worker=launch.worker_id, model=name)
    pipe.send(Starting())
    try:
        runner = _build(settings, launch, name, pipe)
    except (ModelError, TokenizerError, BadSetting, BrokerUnavailable) as error:
        pipe.send(Fatal(" ".join(str(error).split())))
        return 1
    sys.setswitchinterval(SWITCH_S)
    runner.run()
    gc.unfreeze()  # otherwise extensions that count their objects at exit report the frozen ones as leaked
    return 0


def _build(settings: WorkerSettings, launch: LaunchEngine, name: str, pipe: EnginePipe) -> Runner:
    spec = engine_spec(settings.engine, deterministic=settings.deterministic)
    model = resolve_model(settings.model)
    check_files(model)
    if settings.engine == DEFAULT and not Path(model).is_dir():
        # Once, and before the tokenizer and the fingerprint are read: all of them read the same files.
        model = str(model_folder(model, lambda progress: _report(progress, pipe)))
    try:
        words = words_of(settings.classifier_from_token, Path(model))
        score_template = read_template(settings.score_template, by_words=words is not None)
    except ValueError as error:
        raise BadSetting(str(error)) from None
    limits = QUICK_S, settings.intake_s, settings.intake_memory_mb
    order = Order(
        model,
        settings.show_prompts,
        *limits,
        settings.sanitize_control_tokens,
        settings.max_logprobs,
        settings.max_prompt_logprobs,
        settings.max_choices,
        settings.tool_call_parser,
        settings.reasoning_parser,
        score_template,
    )
    places = Places(order)
    config = _engine_config(settings, launch, model)
    engine, tokenizer, fingerprint = _load(spec, config, places, words)
    grammars = Grammars(tokenizer, engine.model_info.vocab_size, engine.model_info.eos_token_ids)
    if settings.engine != DEFAULT:  # another engine makes other tokens from the same model
        fingerprint = _digest(f"{fingerprint} by {settings.engine}")
    tags = [keys.Tag(name, partition, settings.namespace) for partition in range(settings.partitions)]
    redis = connect(settings.redis_url, socket_timeout=socket_timeout_s(settings.lease_s))
    facts: dict[str, str | int] = {
        "id": name,
        "context_tokens": engine.capacity_tokens,
        "parameters": engine.model_info.num_parameters,
        "dtype": engine.model_info.dtype,
        "task": engine.model_info.task,
    }
    queue = Queue(
        redis=redis,
        tags=tags,
        worker_id=launch.worker_id,
        lease_ms=round(settings.lease_s * 1000),
        settings=settings.queue,
        intake=Intake(
            places,
            redis,
            tokenizer,
            grammars,
            engine.model_info.context_tokens,
            settings.intake_s,
            load_adapter=getattr(engine, "load_adapter", None) if engine.model_info.max_adapters else None,
        ),
        registration=Registration(redis, tags, name, facts),
        fingerprint=fingerprint,
        model_change=ModelChange(settings.on_model_change, settings.model_grace_s),
    )
    gc.collect()
    gc.freeze()  # otherwise a full collection scans every module again: some 100 ms between two tokens
    _announce(queue)
    stats = engine.stats()
    pipe.send(
        Ready(
            worker_id=launch.worker_id,
            model=settings.model,
            served_name=name,
            pages_total=stats.pages_total,
            context_tokens=engine.capacity_tokens,
        )
    )
    log.info(
        "ready",
        pages=stats.pages_total,
        context_tokens=engine.capacity_tokens,
        fingerprint=fingerprint,
    )
    return Runner(settings, engine, queue, metrics.Metrics(name), pipe, name)


def _report(progress: DownloadProgress, pipe: EnginePipe) -> None:
    log.info(
        "downloading",
        done_bytes=progress.done_bytes,
        total_bytes=progress.total_bytes,
        files_done=progress.files_done,
        files=progress.files,
        arriving=[str(each) for each in progress.arriving],
    )
    pipe.send(Starting(str(progress)))


def _load(
    spec: EngineSpec, config: EngineConfig, places: Places, words: tuple[str, str] | None
) -> tuple[EngineProtocol, TokenText, str]:
    """Load the engine and the tokenizer, and compute their fingerprint meanwhile."""
    beside = ThreadPoolExecutor(1)
    try:
        weights = beside.submit(spec.fingerprint_of, config)
        loaded = None if words is None else places.tokenizer()
        if loaded is not None and words is not None:
            config = replace(config, classifier_token_ids=_tokens_of(words, loaded[0]))
        engine = spec.load(config)
        self_test(engine)
        tokenizer, fingerprint = loaded or places.tokenizer()
        identity = weights.result() + fingerprint
        known = engine.model_info.eos_token_ids
        engine.end_also_at(() if places.eos_token_id is None else (places.eos_token_id,))
        if engine.model_info.eos_token_ids != known:
            identity += f" and ends at {engine.model_info.eos_token_ids}"
    except (ModelError, TokenizerError, BadSetting):
        raise
    except Exception as error:  # from the files, the device or a library: another try would end the same way
        log.debug("loading_failed", exc_info=True)
        raise ModelError(_sentence(config.model, error)) from error
    finally:
        beside.shutdown(
            wait=False
        )  # a model that can't be served ends the process at once, without waiting for the hash
    return engine, tokenizer, _digest(identity)


def _tokens_of(words: tuple[str, str], tokenizer: TokenText) -> tuple[int, int]:
    """The tokens of the words with which a reranker answers."""
    no, yes = (tokenizer.id_of(word) for word in words)
    if no is None or yes is None:
        missing = words[0] if no is None else words[1]
        raise BadSetting(f"classifier_from_token: {missing!r} is no token of the model")
    return no, yes


def _digest(identity: str) -> str:
    return blake2b(identity.encode(), digest_size=8).hexdigest()


def _sentence(model: str, error: Exception) -> str:
    if is_out_of_memory(error):
        return f"not enough memory to load {model!r}; free some, or use a smaller or quantised model"
    return " ".join(f"{model!r} can't be loaded: {type(error).__name__}: {error}".split())[:_LONGEST]


def _engine_config(settings: WorkerSettings, launch: LaunchEngine, model: str) -> EngineConfig:
    return EngineConfig(
        model=model,
        device=_device(settings.device),
        dtype=settings.dtype,
        quantization=settings.quantization,
        page_size=settings.page_size,
        num_pages=settings.num_pages,
        kv_memory_bytes=settings.kv_memory_bytes,
        kv_dtype=settings.kv_dtype,
        deterministic=settings.deterministic,
        max_batch_size=settings.max_batch_size,
        max_step_tokens=settings.max_step_tokens,
        token_time_objective_s=None if settings.token_time_ms is None else settings.token_time_ms / 1000,
        max_context_tokens=settings.max_context_tokens,
        prefix_cache=settings.prefix_cache,
        threads=launch.threads,
        cuda_graphs=settings.cuda_graphs,
        max_adapters=settings.max_adapters,
        adapter_memory_bytes=settings.adapter_memory_bytes,
        gpu_reserve_bytes=settings.gpu_reserve_bytes,
        server=EngineServer(
            url=settings.engine_url,
            python=settings.engine_python,
            args=settings.engine_args,
            stall_s=settings.wedged_s,
        ),
    )


def _device(wanted: str) -> str:
    """The device; the host shows each engine process only its own GPU, which is always the first here."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return "cuda" if wanted.startswith("cuda") else wanted


def _announce(queue: Queue) -> None:
    """Check the server and list the model as served, waiting for Redis if it is unreachable.

    A Redis that accepts no new data now isn't waited for: jobs that run and end here make room in it.

    Raises:
        BrokerUnavailable: it is too old, denies a right, or stayed unreachable.
    """
    give_up_at, pause_s = time.monotonic() + REDIS_WAIT_S, 1.0
    while True:
        try:
            _register(queue)
        except BrokerUnavailable as error:
            if not connection_lost(error) or time.monotonic() >= give_up_at:
                raise
            log.warning("redis_awaited", reason=str(error), retry_s=pause_s)
            time.sleep(pause_s)
            pause_s = min(REDIS_PAUSE_S, 2 * pause_s)
        else:
            return


def _register(queue: Queue) -> None:
    with broker_errors():
        check_version(server_info(queue.redis))
    try:
        queue.registration.register()
    except BrokerUnavailable as error:
        if isinstance(error.__cause__, RedisConnectionError | NoPermissionError):
            raise
        queue.registration.note_refusal(error)


if __name__ == "__main__":
    gc.freeze()
    gc.enable()
    status = main(int(sys.argv[1]))
    logs.settle()
    os._exit(
        status
    )  # everything is handed over; tearing torch down, object by object, takes another half second
