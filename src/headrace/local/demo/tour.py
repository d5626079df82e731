"""The tour: start a stack, run jobs, kill an engine while it runs them, show that nothing was lost."""

import asyncio
import socket
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from ...producers.async_client import AsyncClient, AsyncJobHandle
from ...producers.client import Client
from ...producers.operate.overview import WorkerInfo
from ...schemas.errors import DemoFailed
from ...schemas.events import Chunk, JobResult
from ...schemas.redis.connection import shown_url
from ..stack import Stack, stack
from . import backend, worker
from .kill import Kill, kill_one
from .outcome import Outcome
from .over_http import HttpStream
from .scene import BACKGROUND_PROMPTS, OVER_HTTP, STREAM_PROMPTS, EngineView, Scene, StreamView
from .screen import Screen, screen


def demo(
    redis_url: str | None = None, flower_port: int | None = None, gateways: Sequence[socket.socket] = ()
) -> None:
    """Run the tour, then stop everything.

    Args:
        redis_url: replaces the embedded Redis.
        flower_port: where Flower listens; it doesn't run without it.
        gateways: two sockets for gateways, or none if the gateway isn't installed.

    Raises:
        StackError: something could not be started, or ended too early.
        DemoFailed: nothing was resumed, or something was lost.
    """
    scene = Scene([StreamView(prompt) for prompt in STREAM_PROMPTS], total_jobs=0)
    with tempfile.TemporaryDirectory(prefix="headrace-demo-") as folder, screen(scene) as shown:
        pace = shown.pace
        scene.total_jobs = len(scene.streams) + pace.background_jobs
        what = "a worker" if redis_url else "Redis and a worker"
        shown.say(f"Starting {what} with {scene.places} engine processes ...")
        if not gateways:
            shown.say(
                "No stream over HTTP: the gateway is missing (pip install 'headrace[gateway]').", "yellow"
            )
        with stack(
            Path(folder),
            redis_url=redis_url,
            worker_command=worker.command(pace),
            engines=scene.places,
            callbacks_args=["--webhook-allow", backend.ADDRESS],
            gateways=gateways,
            flower_port=flower_port,
        ) as running:
            try:
                outcome = _run_all(running, scene, shown)
            finally:
                shown.say("Stopping ...")
    print("Everything is stopped.", flush=True)
    if outcome.fault is not None:
        raise DemoFailed(outcome.fault)


def _run_all(running: Stack, scene: Scene, shown: Screen) -> Outcome:
    with Client.from_env(running.redis_url) as client:
        running.wait_ready(client)
    shown.ready(shown_url(running.redis_url), running.flower_url)
    return asyncio.run(_tour(running, scene, shown))


async def _tour(running: Stack, scene: Scene, shown: Screen) -> Outcome:
    async with AsyncClient.from_env(running.redis_url) as client:
        scene.see([_engine(scene, worker) for worker in await client.workers()])
        scene.restart()
        streams, background = await _enqueue(client, shown)
        shown.say(f"{len(streams)} interactive streams and {len(background)} batch jobs are queued.")
        shown.say(f"{scene.places} engines take as many as their KV pages hold; the rest waits in Redis.")
        http = _http_stream(running, scene)
        watcher = asyncio.create_task(_watch(client, scene, shown, streams))
        try:
            results, kill = await _run(running, scene, shown, streams, background, http)
            outcome = Outcome(scene, results, kill, scene.elapsed_s, http)
            shown.draw()
            shown.table("What happened", outcome.rows(slowed=shown.pace.step_s > 0))
            shown.say('Now from Celery: generate.delay("A list is").get(), and its signed webhook ...')
            shown.table("From a Celery project", await backend.run(running.redis_url))
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
        return outcome


async def _enqueue(client: AsyncClient, shown: Screen) -> tuple[list[AsyncJobHandle], list[AsyncJobHandle]]:
    pace = shown.pace
    streams = [
        await client.enqueue(
            prompt,
            model="demo",
            max_tokens=pace.stream_tokens,
            temperature=0.8,
            seed=number,
            ignore_eos=True,
            job_class="interactive",
        )
        for number, prompt in enumerate(STREAM_PROMPTS)
    ]
    background = await client.enqueue_many(
        {
            "prompt": BACKGROUND_PROMPTS[number % len(BACKGROUND_PROMPTS)],
            "model": "demo",
            "max_tokens": pace.background_tokens,
            "seed": number,
            "ignore_eos": True,
            "job_class": "batch",
            "stream": False,
        }
        for number in range(pace.background_jobs)
    )
    return streams, background


async def _run(
    running: Stack,
    scene: Scene,
    shown: Screen,
    streams: list[AsyncJobHandle],
    background: list[AsyncJobHandle],
    http: HttpStream | None,
) -> tuple[list[JobResult], Kill | None]:
    (host,) = (part.process.pid for part in running.parts if part.name == "worker")
    async with asyncio.TaskGroup() as tasks:
        for view, job in zip(scene.streams, streams, strict=True):
            read = http.read(job.id) if http is not None and view is http.view else job.stream()
            tasks.create_task(_follow(scene, view, read))
        kill = tasks.create_task(kill_one(scene, shown, host, streams, background, http))
        ends = [tasks.create_task(_end(scene, job)) for job in (*streams, *background)]
        tasks.create_task(_stay(running, lambda: all(end.done() for end in ends)))
    return [end.result() for end in ends], kill.result()


def _http_stream(running: Stack, scene: Scene) -> HttpStream | None:
    if not running.gateway_urls:
        return None
    view = scene.streams[OVER_HTTP]
    view.over_http = True
    return HttpStream(view, deque(running.gateway_urls), running.kill_gateway)


async def _follow(scene: Scene, view: StreamView, chunks: AsyncIterator[Chunk]) -> None:
    async for chunk in chunks:
        view.take(chunk.start, chunk.offset, chunk.text)
        scene.moved.set()
    view.done = True
    scene.moved.set()


async def _end(scene: Scene, job: AsyncJobHandle) -> JobResult:
    result = await job.result(timeout_s=120)
    scene.finished += 1
    return result


async def _stay(running: Stack, ended: Callable[[], bool]) -> None:
    """Check that all parts run until the jobs have ended."""
    while not ended():
        running.check()
        await asyncio.sleep(0.1)


async def _watch(client: AsyncClient, scene: Scene, shown: Screen, streams: list[AsyncJobHandle]) -> None:
    while True:
        scene.see([_engine(scene, worker) for worker in await client.workers()])
        if newest := scene.newcomer():
            shown.say(
                f"Engine {newest.letter} (pid {newest.pid}) has been started in its place and takes jobs",
                "bold",
            )
        scene.queued = sum(queue.depth for queue in await client.queues())
        for view, job in zip(scene.streams, streams, strict=True):
            if not view.done and (status := await job.status()).worker:
                view.belongs_to(scene.letter(status.worker))
        shown.draw()
        await asyncio.sleep(shown.pace.look_s)


def _engine(scene: Scene, worker: WorkerInfo) -> EngineView:
    return EngineView(
        scene.letter(worker.id), worker.id, worker.pid, worker.pages_total, worker.pages_free, worker.running
    )
