"""Settings of `headrace worker` and `headrace callbacks`, validated at startup."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from ..schemas.answers.format import ReasoningFormat, ToolFormat
from ..schemas.job import JobClass
from ..schemas.settings.celery import CelerySettings
from ..schemas.settings.common import split, words

VLLM = "vllm"
"""The engine whose server has all GPUs of a place."""


def socket_timeout_s(lease_s: float) -> float:
    """How long Redis may take to answer, so that a dead network is noticed before leases lapse."""
    return max(2.0, min(15.0, lease_s / 2))


class WorkerSettings(CelerySettings):
    """What a worker serves, on which hardware, and how it behaves towards the queue.

    Attributes:
        model: a Hugging Face Hub name, a local folder, or `demo`, the built-in model. Required.
        served_name: name under which producers ask for the model; by default the folder's or Hub name.
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`; `auto` is the checkpoint's own.
        quantization: `int8` stores weights as bytes; for bfloat16 on a CPU.
        engine: name of the engine to compute with: `headrace`, `vllm`, or one that an installed package
            provides.
        engine_url: URL of a running vLLM server for `--engine vllm` to use; by default it starts one.
        engine_python: the Python that vLLM is installed for, if it isn't this one, so that its dependencies
            never meet headrace's.
        engine_args: flags for the vLLM server that is started, as in a shell; on the command line they follow
            `--`.
        engines: number of engine processes on this machine, which share its GPUs and CPU cores.
        page_size: tokens per KV page.
        num_pages: KV pages per engine; by default derived from `kv_memory_bytes`.
        kv_memory_bytes: memory for each engine's KV pages; by default a quarter of the machine's free memory,
            and on a GPU what the largest step leaves free.
        kv_dtype: `fp8` stores keys and values in half the memory, with less precision; for GPUs.
        deterministic: compute the same tokens and log-probabilities, bit for bit, whatever other jobs are
            beside a job and however often it is interrupted.
        max_batch_size: maximum number of jobs in one step.
        max_step_tokens: maximum number of tokens computed in one step; by default 512 on a CPU, 2048 on a
        GPU.
        token_time_ms: longest time between two tokens of a stream, kept by computing prompts in smaller
            pieces; by default prompts may use all of `max_step_tokens`.
        max_context_tokens: maximum length of prompt and output together; by default what the model allows.
        prefix_cache: reuse KV pages for prompts that begin the same way.
        threads: CPU threads per engine; by default its share of the cores.
        cuda_graphs: capture decode steps on a GPU; slower to start, faster to run.
        max_adapters: maximum number of LoRA adapters in memory, and in one step; 0 serves none.
        adapter_memory_bytes: memory that they may take together; the longest unused leave first.
        gpu_reserve_bytes: GPU memory to leave free beyond what a measured step takes; by default 3 % of the
            GPU's, at least 512 MiB.
        classes: job classes to serve, most urgent first.
        on_model_change: what happens to a job with tokens once no worker has the model that made them:
            `restart` from scratch, `resume` with another model's tokens, or `fail`.
        model_grace_s: how long no worker of that model may have been heard from before this happens.
        lease_s: how long a worker may be silent before its jobs go to another.
        flush_s: longest time between two chunks of a stream.
        heartbeat_s: time between two heartbeats of a worker.
        finish_s: how long running jobs may take to finish when the worker is stopped; the rest are then
            handed over. At 0 all are handed over at once.
        drain_s: how long the hand-over may take when the worker is stopped; then the worker is killed.
        intake_s: how long the chat template, the tokenizer and the replay of the log may take for one job.
        intake_memory_mb: memory (address space) that reading one job may take.
        sanitize_control_tokens: treat names of control tokens (`<|im_end|>`) in messages as plain text.
            Otherwise they become those tokens, as in other servers, and the author of a message can end it.
        tool_call_parser: the format in which the model writes calls of tools: `hermes`, `qwen3_coder`,
            `llama3_json`, `pythonic`, `mistral`, `harmony`, `glm`, `deepseek` or `gemma`; `auto` finds it in
            the chat template, and `none` leaves calls in the text.
        reasoning_parser: the format of its reasoning: `think`, `mistral` or `harmony`; `auto` and `none` as
            for calls.
        classifier_from_token: the words for no and yes with which a reranker answers (`no,yes`); each must be
            one token. A document's score is then how likely yes is of the two. By default what config.json
            says.
        score_template: a file with the chat template of a query and a document, as messages with the roles
            `query` and `document`, or `qwen3-reranker`, the usual one with `classifier_from_token`. Without
            one the document follows the query.
        wedged_s: how long an engine process may be silent, or its intake, steps or exchanges with Redis stand
            still, before it is considered stuck and killed.
        start_s: how long an engine process may take to load its model before it is killed; a download
            that makes progress doesn't count.
        spare_engine: keep an idle process whose imports are done, and which takes the place of an engine
            process that dies, so that its model loads at once. It takes about 220 MB, and isn't started if
            less than 1 GiB of memory is available.
        metrics_port: port for Prometheus metrics and health; 0 picks a free one, None serves neither.
        metrics_host: address to serve them on; `0.0.0.0` if Prometheus runs on another machine.
        log_level: `debug`, `info`, `warning` or `error`.
    """

    model: str = ""
    served_name: str | None = None
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Literal["int8"] | None = None
    engine: Annotated[str, Field(min_length=1)] = "headrace"
    engine_url: Annotated[str, Field(pattern=r"^https?://[^/\s@?#]+/?$")] | None = None
    engine_python: Annotated[str, Field(min_length=1)] | None = None
    engine_args: Annotated[tuple[str, ...], NoDecode, BeforeValidator(words)] = ()
    engines: Annotated[int, Field(ge=1, le=64)] = 1
    page_size: Annotated[int, Field(ge=1, le=256)] = 16
    num_pages: Annotated[int, Field(ge=2)] | None = None
    kv_memory_bytes: Annotated[int, Field(ge=1)] | None = None
    kv_dtype: Literal["fp8"] | None = None
    deterministic: bool = False
    max_batch_size: Annotated[int, Field(ge=1, le=4096)] = 64
    max_step_tokens: Annotated[int, Field(ge=1)] | None = None
    token_time_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    max_context_tokens: Annotated[int, Field(ge=2)] | None = None
    prefix_cache: bool = True
    threads: Annotated[int, Field(ge=1)] | None = None
    cuda_graphs: bool = True
    max_adapters: Annotated[int, Field(ge=0, le=1024)] = 0
    adapter_memory_bytes: Annotated[int, Field(ge=1)] = 1 << 30
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
    tool_call_parser: Literal["auto", "none"] | ToolFormat = "auto"
    reasoning_parser: Literal["auto", "none"] | ReasoningFormat = "auto"
    classifier_from_token: Annotated[tuple[str, str] | None, NoDecode, BeforeValidator(split)] = None
    score_template: str | None = None
    wedged_s: Annotated[float, Field(gt=1)] = 120.0
    start_s: Annotated[float, Field(gt=1)] = 3600.0
    spare_engine: bool = True
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    metrics_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("engine_url", "engine_python", "engine_args")
    @classmethod
    def _of_a_server(cls, value: object, info: ValidationInfo) -> object:
        if value and info.data.get("engine") == "headrace":
            raise ValueError("the engine 'headrace' has no server; set engine to 'vllm'")
        if value and info.field_name != "engine_url" and info.data.get("engine_url") is not None:
            raise ValueError("it is for a server that is started here, but engine_url names one that runs")
        if value and info.field_name == "engine_url":
            urlsplit(str(value)).port  # noqa: B018 - raises ValueError if it has none that can be
        return value


class CallbacksSettings(CelerySettings):
    """What `headrace callbacks` does after jobs, and how hard it tries.

    Attributes:
        app: the Celery app whose tasks are completed, as `module:name`.
        callbacks_queue: the Celery queue of generations that are sent by the task's name.
        celery_unsigned: also send what follows a task whose message isn't signed; only for as long as there
            are producers of a version that didn't sign.
        relay_s: seconds after which another process takes over an outbox entry that one has taken up.
        webhook_allow: receivers that may be private: host names, `host:port`, networks like `10.1.0.0/16`.
        webhook_timeout_s: how long a receiver has for its whole answer.
        webhook_concurrency: maximum number of attempts in flight, over all endpoints.
        webhook_retention_s: how long a delivery is kept, including its retries.
        metrics_port: port for Prometheus metrics and health; 0 picks a free one, None serves neither.
        metrics_host: address to serve them on.
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
