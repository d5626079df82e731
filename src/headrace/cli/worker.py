"""`headrace worker`."""

from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add the worker's commands to `app`."""
    app.command("worker")(worker)


def worker(
    model: Annotated[str | None, typer.Option(help="Hub name, local folder, or `demo`.")] = None,
    redis: Annotated[str | None, typer.Option(help="Redis URL.")] = None,
    served_name: Annotated[str | None, typer.Option(help="The name that producers use.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    quantization: Annotated[
        str | None, typer.Option(help="int8: weights as bytes, for bfloat16 on a CPU.")
    ] = None,
    engines: Annotated[
        int | None, typer.Option(help="Engine processes; GPUs and cores are shared out.")
    ] = None,
    page_size: Annotated[int | None, typer.Option(help="Tokens a KV page holds.")] = None,
    num_pages: Annotated[
        int | None, typer.Option(help="KV pages an engine; by default what memory allows.")
    ] = None,
    kv_memory_bytes: Annotated[
        int | None, typer.Option(help="Memory for an engine's KV pages; by default what can be spared.")
    ] = None,
    kv_dtype: Annotated[
        str | None, typer.Option(help="fp8: keys and values in half the memory, less precise; on GPUs.")
    ] = None,
    max_batch_size: Annotated[int | None, typer.Option(help="Most jobs in one step.")] = None,
    max_step_tokens: Annotated[int | None, typer.Option(help="Most tokens computed in one step.")] = None,
    token_time_ms: Annotated[
        float | None, typer.Option(help="Longest time between two tokens of a stream; prompts wait for it.")
    ] = None,
    max_context_tokens: Annotated[
        int | None, typer.Option(help="Longest prompt and output together.")
    ] = None,
    prefix_cache: Annotated[
        bool | None, typer.Option(help="Keep pages for prompts with the same start.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads an engine.")] = None,
    cuda_graphs: Annotated[
        bool | None, typer.Option(help="Capture decode steps on a GPU: a slower start, faster steps.")
    ] = None,
    gpu_reserve_bytes: Annotated[
        int | None, typer.Option(help="GPU memory left free; by default 3 %, at least 512 MiB.")
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Job classes served, most urgent first: a,b,c.")] = None,
    on_model_change: Annotated[
        str | None, typer.Option(help="restart, resume or fail: jobs with tokens of a model nobody has now.")
    ] = None,
    model_grace_s: Annotated[
        float | None, typer.Option(help="Nobody must have been heard of with that model for so long.")
    ] = None,
    lease_s: Annotated[
        float | None, typer.Option(help="A worker silent for this long loses its jobs.")
    ] = None,
    flush_s: Annotated[
        float | None, typer.Option(help="Longest time between two chunks of a stream.")
    ] = None,
    finish_s: Annotated[
        float | None,
        typer.Option(help="When stopped, let running jobs end for so long before the hand-over."),
    ] = None,
    drain_s: Annotated[float | None, typer.Option(help="Longest hand-over when stopped.")] = None,
    intake_s: Annotated[
        float | None, typer.Option(help="Longest time to render, tokenise and replay one job.")
    ] = None,
    intake_memory_mb: Annotated[
        int | None, typer.Option(help="Most memory (address space) that reading one job may take.")
    ] = None,
    sanitize_control_tokens: Annotated[
        bool | None, typer.Option(help="Names of control tokens in messages are text, not those tokens.")
    ] = None,
    wedged_s: Annotated[
        float | None, typer.Option(help="Kill an engine process that makes no progress for so long.")
    ] = None,
    start_s: Annotated[
        float | None, typer.Option(help="Kill an engine process that has not loaded its model by then.")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Serve Prometheus metrics; 0 takes a free port.")
    ] = None,
    metrics_host: Annotated[str | None, typer.Option(help="The address to serve metrics on.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Run jobs: a Celery worker that supervises engine processes.

    SIGTERM hands every running job over to another worker, with its progress. Settings not given here come
    from HEADRACE_* variables, then from headrace.toml.
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
            "a worker needs a model: give --model or HEADRACE_MODEL a Hub name, a local folder, or demo, "
            "which is built in"
        )
