"""`headrace worker`."""

from typing import Annotated, Any

import typer

from .options import LogLevel, MetricsHost, MetricsPort


def register(app: typer.Typer) -> None:
    """Add the worker's commands to `app`."""
    app.command("worker")(worker)


def worker(
    engine_args: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- FLAGS]", help="With --engine vllm: flags of `vllm serve`, after --."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Hub name, local folder or `demo`.")] = None,
    redis: Annotated[str | None, typer.Option(help="Redis URL.")] = None,
    served_name: Annotated[
        str | None, typer.Option(help="Name under which producers ask for the model.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    quantization: Annotated[
        str | None, typer.Option(help="int8 stores weights as bytes; for bfloat16 on a CPU.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="Engine to compute with: headrace, vllm, or one from an installed package."),
    ] = None,
    engine_url: Annotated[
        str | None, typer.Option(help="Running vLLM server to use, instead of starting one.")
    ] = None,
    engine_python: Annotated[
        str | None, typer.Option(help="Python that vLLM is installed for, if it isn't this one.")
    ] = None,
    engines: Annotated[
        int | None, typer.Option(help="Number of engine processes, which share the GPUs and cores.")
    ] = None,
    page_size: Annotated[int | None, typer.Option(help="Tokens per KV page.")] = None,
    num_pages: Annotated[
        int | None, typer.Option(help="KV pages per engine; by default as many as memory allows.")
    ] = None,
    kv_memory_bytes: Annotated[
        int | None, typer.Option(help="Memory for each engine's KV pages; by default what can be spared.")
    ] = None,
    kv_dtype: Annotated[
        str | None,
        typer.Option(help="fp8 stores keys and values in half the memory, less precisely; for GPUs."),
    ] = None,
    deterministic: Annotated[
        bool | None, typer.Option(help="Give a job the same bits whatever other jobs run beside it.")
    ] = None,
    max_batch_size: Annotated[int | None, typer.Option(help="Maximum number of jobs in one step.")] = None,
    max_step_tokens: Annotated[
        int | None, typer.Option(help="Maximum number of tokens computed in one step.")
    ] = None,
    token_time_ms: Annotated[
        float | None,
        typer.Option(help="Longest time between two tokens of a stream; prompts take second place."),
    ] = None,
    max_context_tokens: Annotated[
        int | None, typer.Option(help="Maximum length of prompt and output together.")
    ] = None,
    prefix_cache: Annotated[
        bool | None, typer.Option(help="Reuse KV pages for prompts that begin the same way.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads per engine.")] = None,
    cuda_graphs: Annotated[
        bool | None, typer.Option(help="Capture decode steps on a GPU; slower to start, faster to run.")
    ] = None,
    max_adapters: Annotated[
        int | None, typer.Option(help="LoRA adapters in memory, and in one step; 0 serves none.")
    ] = None,
    adapter_memory_bytes: Annotated[
        int | None, typer.Option(help="Memory for them; the longest unused leave first. 1 GiB by default.")
    ] = None,
    gpu_reserve_bytes: Annotated[
        int | None, typer.Option(help="GPU memory to leave free; by default 3 %, at least 512 MiB.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Job classes to serve, comma-separated, most urgent first.")
    ] = None,
    on_model_change: Annotated[
        str | None,
        typer.Option(help="restart, resume or fail jobs whose tokens are of a model that no worker has now."),
    ] = None,
    model_grace_s: Annotated[
        float | None, typer.Option(help="Seconds without a worker of that model before --on-model-change.")
    ] = None,
    lease_s: Annotated[
        float | None, typer.Option(help="Seconds of silence after which a worker loses its jobs.")
    ] = None,
    flush_s: Annotated[
        float | None, typer.Option(help="Longest time between two chunks of a stream, in seconds.")
    ] = None,
    finish_s: Annotated[
        float | None,
        typer.Option(help="When stopped, let running jobs finish for up to this many seconds."),
    ] = None,
    drain_s: Annotated[
        float | None, typer.Option(help="When stopped, give the hand-over at most this many seconds.")
    ] = None,
    intake_s: Annotated[
        float | None, typer.Option(help="Seconds that rendering, tokenising and replaying one job may take.")
    ] = None,
    intake_memory_mb: Annotated[
        int | None, typer.Option(help="Memory (address space) that reading one job may take.")
    ] = None,
    sanitize_control_tokens: Annotated[
        bool | None, typer.Option(help="Treat names of control tokens in messages as plain text.")
    ] = None,
    tool_call_parser: Annotated[
        str | None, typer.Option(help="Format of the model's calls of tools; `auto`: its template tells.")
    ] = None,
    reasoning_parser: Annotated[
        str | None, typer.Option(help="Format of the model's reasoning; `auto`: its template tells.")
    ] = None,
    classifier_from_token: Annotated[
        str | None, typer.Option(help="Words for no and yes with which a reranker answers: `no,yes`.")
    ] = None,
    score_template: Annotated[
        str | None,
        typer.Option(help="File with the template of a query and a document, or `qwen3-reranker`."),
    ] = None,
    wedged_s: Annotated[
        float | None, typer.Option(help="Kill an engine process without progress for this many seconds.")
    ] = None,
    start_s: Annotated[
        float | None,
        typer.Option(help="Kill an engine process that takes longer than this to load its model."),
    ] = None,
    spare_engine: Annotated[
        bool | None, typer.Option(help="Keep an idle process that replaces an engine process that dies.")
    ] = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = None,
    log_level: LogLevel = None,
) -> None:
    """Run jobs, as a Celery worker that supervises engine processes.

    On SIGTERM it hands every running job over to another worker, with its progress. Settings not given here
    come from HEADRACE_* variables, then from headrace.toml.
    """
    flags: dict[str, Any] = dict(locals())
    flags["redis_url"] = flags.pop("redis")
    raise typer.Exit(_run(flags))


def _run(flags: dict[str, Any]) -> int:
    from ..schemas.errors import BadSetting, BrokerUnavailable
    from ..workers.settings import WorkerSettings

    try:
        from ..workers.host.run import run
    except ModuleNotFoundError as error:
        typer.echo(f"headrace worker: {error.name} is missing; pip install 'headrace[worker]'", err=True)
        return 2
    try:
        settings = WorkerSettings.load(**flags)
        _check_named(settings.model)
        return run(settings)
    except (BadSetting, BrokerUnavailable) as error:
        typer.echo(f"headrace worker: {error}", err=True)
        return 2


def _check_named(model: str) -> None:
    from ..schemas.errors import BadSetting

    if not model:
        raise BadSetting(
            "a worker needs a model: set --model or HEADRACE_MODEL to a Hub name, a local folder, or demo, "
            "the built-in one"
        )
