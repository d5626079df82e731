"""Settings of `headrace worker` and `headrace callbacks`, validated at start."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from ..schemas.job import JobClass
from ..schemas.settings.celery import CelerySettings
from ..schemas.settings.common import split


def socket_timeout_s(lease_s: float) -> float:
    """How long Redis may take for an answer: a network that swallows all is noticed before leases lapse."""
    return max(2.0, min(15.0, lease_s / 2))


class WorkerSettings(CelerySettings):
    """What a worker serves, with what, and how it behaves towards the queue.

    Attributes:
        model: a Hugging Face Hub name, a local folder, or `demo`, the built-in one. A worker needs one.
        served_name: the name that producers use; the folder's or Hub name when not given.
        device: `auto` (a GPU when there is one), `cpu`, `cuda` or `cuda:N`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`; `auto` is the checkpoint's own.
        quantization: `int8` keeps weights as bytes; for bfloat16 on a CPU.
        engines: engine processes on this machine; GPUs and CPU cores are shared out among them.
        page_size: tokens that a KV page holds.
        num_pages: KV pages an engine; sized from `kv_memory_bytes` when not given.
        kv_memory_bytes: memory for an engine's KV pages; when not given, a quarter of what the machine has
            free, and on a GPU what the largest step leaves of it.
        kv_dtype: `fp8` keeps keys and values in half the memory, with less precision; on GPUs.
        max_batch_size: most jobs in one step.
        max_step_tokens: most tokens computed in one step; 512 on a CPU and 2048 on a GPU when not given.
        token_time_ms: longest time from a token of a stream to its next, for which prompts are computed in
            smaller pieces; without it they get all of `max_step_tokens`.
        max_context_tokens: longest prompt and output together; what the model allows when not given.
        prefix_cache: keep pages for prompts that begin in the same way.
        threads: CPU threads an engine; its share of the cores when not given.
        cuda_graphs: capture decode steps on a GPU; without it the start is quicker and every step slower.
        gpu_reserve_bytes: GPU memory that KV pages leave free, besides what a measured step takes; 3 % of the
            GPU's, at least 512 MiB, when not given.
        classes: job classes served, most urgent first.
        on_model_change: what becomes of a job with tokens once no worker has the model that made them:
            `restart` from scratch, `resume` with another model's tokens after them, or `fail`.
        model_grace_s: how long no worker of that model must have been heard of before that.
        lease_s: a worker silent for this long loses its jobs to another.
        flush_s: longest time between two publications of a stream.
        heartbeat_s: how often a worker says that it lives.
        finish_s: when the worker is stopped, running jobs may go on for so long to end by themselves; what
            has not ended then is handed over. At 0 everything is handed over at once.
        drain_s: longest wait for the hand-over when the worker is stopped; then it is killed.
        intake_s: longest time that the chat template, the tokenizer and the log of one job may take.
        intake_memory_mb: most memory (address space) that reading a job may take.
        sanitize_control_tokens: names of control tokens (`<|im_end|>`) in messages are text; without it
            they are those tokens, as in other servers, and whoever writes a message can end it.
        wedged_s: an engine process that says nothing for so long, or whose exchanges with Redis, steps or
            intake come to no end for so long, is taken for stuck and killed.
        start_s: an engine process that has not loaded its model by then is killed.
        metrics_port: serves Prometheus metrics and health; 0 takes a free port, None serves none.
        metrics_host: the address to serve them on; `0.0.0.0` where Prometheus is on another machine.
        log_level: `debug`, `info`, `warning` or `error`.
    """

    model: str = ""
    served_name: str | None = None
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Literal["int8"] | None = None
    engines: Annotated[int, Field(ge=1, le=64)] = 1
    page_size: Annotated[int, Field(ge=1, le=256)] = 16
    num_pages: Annotated[int, Field(ge=2)] | None = None
    kv_memory_bytes: Annotated[int, Field(ge=1)] | None = None
    kv_dtype: Literal["fp8"] | None = None
    max_batch_size: Annotated[int, Field(ge=1, le=4096)] = 64
    max_step_tokens: Annotated[int, Field(ge=1)] | None = None
    token_time_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    max_context_tokens: Annotated[int, Field(ge=2)] | None = None
    prefix_cache: bool = True
    threads: Annotated[int, Field(ge=1)] | None = None
    cuda_graphs: bool = True
    gpu_reserve_bytes: Annotated[int, Field(ge=0)] | None = None
    classes: Annotated[tuple[JobClass, ...], NoDecode, BeforeValidator(split), Field(min_length=1)] = tuple(
        JobClass
    )
    on_model_change: Literal["restart", "resume", "fail"] = "restart"
    model_grace_s: Annotated[float, Field(ge=1, le=86_400)] = 30.0
    lease_s: Annotated[float, Field(ge=0.5, le=3600)] = 10.0
    flush_s: Annotated[float, Field(ge=0, le=10)] = 0.05
    heartbeat_s: Annotated[float, Field(gt=0, le=30)] = 1.0
    finish_s: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    drain_s: Annotated[float, Field(gt=0, le=3600)] = 20.0
    intake_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    intake_memory_mb: Annotated[int, Field(ge=512)] = 4096
    sanitize_control_tokens: bool = False
    wedged_s: Annotated[float, Field(gt=1)] = 120.0
    start_s: Annotated[float, Field(gt=1)] = 3600.0
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    metrics_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class CallbacksSettings(CelerySettings):
    """What follows from jobs, and how hard to try.

    Attributes:
        app: the Celery app whose tasks are completed, as `module:name`.
        callbacks_queue: the Celery queue of generations that were sent by their task's name alone.
        celery_unsigned: send what follows from tasks whose messages are not signed, for as long as there are
            producers of a version that did not sign.
        relay_s: an outbox entry, once taken up, is another process's to see to after so long.
        webhook_allow: receivers that may be private: host names, `host:port`, networks like `10.1.0.0/16`.
        webhook_timeout_s: what a receiver gets for its whole answer.
        webhook_concurrency: attempts under way at once, of all endpoints together.
        webhook_retention_s: how long a delivery is kept, its retries included.
        metrics_port: serves Prometheus metrics and health; 0 takes a free port, None serves none.
        metrics_host: the address to serve them on.
        log_level: `debug`, `info`, `warning` or `error`.
    """

    app: Annotated[str, Field(min_length=1)] = "headrace.celery:app"
    callbacks_queue: Annotated[str, Field(min_length=1)] = "headrace"
    celery_unsigned: bool = False
    relay_s: Annotated[float, Field(ge=0.5, le=600)] = 10.0
    webhook_allow: Annotated[tuple[str, ...], NoDecode, BeforeValidator(split)] = ()
    webhook_timeout_s: Annotated[float, Field(gt=0, le=60)] = 15.0
    webhook_concurrency: Annotated[int, Field(ge=1, le=4096)] = 256
    webhook_retention_s: Annotated[float, Field(ge=60)] = 7 * 86_400.0
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    metrics_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
