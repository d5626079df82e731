"""The tour: start a stack, run jobs, kill an engine in the middle of them, show that nothing was lost."""

import asyncio
import os
import signal
import statistics
import tempfile
from pathlib import Path

from ..producers.async_client import AsyncClient, AsyncJobHandle
from ..producers.client import Client
from ..schemas.connection import shown_url
from ..schemas.events import JobResult
from ..stack import stack
from . import backend
from .scene import BACKGROUND_PROMPTS, STREAM_PROMPTS, EngineView, Scene, StreamView
from .screen import Screen, screen

ENGINES = 2
STREAM_TOKENS = 220
BACKGROUND_JOBS = 60
BACKGROUND_TOKENS = 120
KILL_AT_OFFSET = 60
"""Each stream has shown this many tokens when the engine that runs the first one is killed."""

WORKER_ARGS = [
    *("--model", "demo", "--device", "cpu"),
    *("--lease-s", "2", "--num-pages", "640", "--max-batch-size", "40"),
]
"""A short lease and a small page pool: a laptop shows in seconds what a cluster shows in minutes."""


def demo(redis_url: str | None = None, flower_port: int | None = None) -> None:
    """Run the tour and stop everything; with `redis_url` on that Redis instead of an embedded one."""
    with tempfile.TemporaryDirectory(prefix="headrace-demo-") as folder, screen() as shown:
        shown.say(f"Starting {'' if redis_url else 'Redis and '}a worker with {ENGINES} engine processes ...")
        with stack(
            Path(folder),
            redis_url=redis_url,
            worker_args=WORKER_ARGS,
            engines=ENGINES,
            callbacks_args=["--webhook-allow", backend.ADDRESS],
            flower_port=flower_port,
        ) as running:
            with Client.from_env(running.redis_url) as client:
                running.wait_ready(client)
            shown.say(f"Ready: model 'demo' on {ENGINES} engines, {shown_url(running.redis_url)}")
            if running.flower_url is not None:
                shown.say(f"Flower, meanwhile: {running.flower_url}")
            asyncio.run(_tour(running.redis_url, shown))
            shown.table("From a Celery project", backend.run(running.redis_url))
            shown.say("Stopping ...")
    shown.say("Everything is stopped.")


async def _tour(redis_url: str, shown: Screen) -> None:
    async with AsyncClient.from_env(redis_url) as client:
        views = [StreamView(prompt) for prompt in STREAM_PROMPTS]
        scene = Scene(views, total_jobs=len(views) + BACKGROUND_JOBS)
        streams = [
            await client.enqueue(
                view.prompt,
                model="demo",
                max_tokens=STREAM_TOKENS,
                temperature=0.8,
                seed=number,
                ignore_eos=True,
                job_class="interactive",
            )
            for number, view in enumerate(views)
        ]
        background = await client.enqueue_many(
            {
                "prompt": BACKGROUND_PROMPTS[number % len(BACKGROUND_PROMPTS)],
                "model": "demo",
                "max_tokens": BACKGROUND_TOKENS,
                "seed": number,
                "ignore_eos": True,
                "job_class": "batch",
                "stream": False,
            }
            for number in range(BACKGROUND_JOBS)
        )
        shown.say(f"{len(streams)} interactive streams and {len(background)} batch jobs are queued.")
        watcher = asyncio.create_task(_watch(client, scene, shown))
        try:
            results = await _run(client, scene, shown, streams, background)
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
        elapsed_s = scene.elapsed_s
        shown.draw(scene)
        _summary(shown, scene, results, elapsed_s)


async def _run(
    client: AsyncClient,
    scene: Scene,
    shown: Screen,
    streams: list[AsyncJobHandle],
    background: list[AsyncJobHandle],
) -> list[JobResult]:
    async with asyncio.TaskGroup() as tasks:
        for view, job in zip(scene.streams, streams, strict=True):
            tasks.create_task(_follow(scene, view, job))
        tasks.create_task(_kill_one(scene, shown, streams[0]))
        ends = [tasks.create_task(_end(scene, job)) for job in (*streams, *background)]
    return [end.result() for end in ends]


async def _follow(scene: Scene, view: StreamView, job: AsyncJobHandle) -> None:
    async for chunk in job.stream():
        view.take(chunk.start, chunk.offset, chunk.text)
        scene.moved.set()
    view.done = True


async def _end(scene: Scene, job: AsyncJobHandle) -> JobResult:
    result = await job.result(timeout_s=120)
    scene.finished += 1
    scene.tokens += len(result.token_ids)
    return result


async def _kill_one(scene: Scene, shown: Screen, first: AsyncJobHandle) -> None:
    """Kill the engine that runs the first stream, once every stream has come some way."""
    await scene.all_at(KILL_AT_OFFSET)
    owner = (await first.status()).worker
    victim = next((engine for engine in scene.engines if engine.name == owner), scene.engines[0])
    os.kill(victim.pid, signal.SIGKILL)
    line = f"kill -9 {victim.pid}: {victim.name} dies in the middle of its jobs; another goes on with them"
    scene.events.append(line)
    shown.say(line)


async def _watch(client: AsyncClient, scene: Scene, shown: Screen) -> None:
    while True:
        workers = await client.workers()
        scene.engines = [
            EngineView(worker.id, worker.pid, worker.pages_total, worker.pages_free, worker.running)
            for worker in workers
        ]
        scene.queued = sum(queue.depth for queue in await client.queues())
        shown.draw(scene)
        await asyncio.sleep(0.1)


def _summary(shown: Screen, scene: Scene, results: list[JobResult], elapsed_s: float) -> None:
    tokens = sum(len(result.token_ids) for result in results)
    first_token_s = [result.timings.first_token_s or 0.0 for result in results[: len(scene.streams)]]
    resumed = [result for result in results if result.attempts]
    breaks = sum(stream.breaks for stream in scene.streams)
    rows = [
        ("jobs finished", f"{len(results)} of {scene.total_jobs}"),
        ("output tokens", f"{tokens:,}"),
        ("tokens per second", f"{tokens / elapsed_s:,.0f}"),
        ("time to first token (streams)", f"{1000 * statistics.median(first_token_s):.0f} ms median"),
        ("jobs resumed after kill -9", str(len(resumed))),
        ("longest pause in a stream", f"{max(stream.longest_gap_s for stream in scene.streams):.1f} s"),
        ("tokens lost or repeated in streams", str(breaks)),
    ]
    shown.table("What happened", rows)
