"""vLLM's OpenAI server beside the whole service: the same model, the same cores, the same requests.

vLLM is taken from where `make peers` installs it. Both answer chats of as many tokens, whole and streamed.
"""

import asyncio
import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from headrace import Client
from headrace.local.stack import stack

from ..engine import ENVIRONMENTS
from ..service import save_served_model, worker_args
from ..workload import S
from .processes import gateway
from .wire import chats_per_s, decoded, open_streams

CHAT = {"model": "bench", "messages": [{"role": "user", "content": "What does str.split do?"}]}
CHAT |= {"max_tokens": 16, "ignore_eos": True}
CLIENTS, SECONDS, START_S = 64, 10.0, 300.0


def beside_vllm() -> dict[str, Any]:
    """What both servers do; or why they weren't compared."""
    python = ENVIRONMENTS / "vllm" / "bin" / "python"
    if not python.exists():
        return {"lost": "not installed: make peers"}
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "model"
        save_served_model(S, folder)
        with ours(folder, Path(root)) as url:
            servers = {"headrace": asyncio.run(requests(url))}
        with vllm(python, folder, Path(root)) as url:
            servers["vllm"] = asyncio.run(requests(url))
    command = (python, "-c", "import vllm; print(vllm.__version__)")
    version = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
    return {"model": asdict(S), "servers": servers, "versions": {"vllm": version}}


async def requests(url: str) -> dict[str, float]:
    """Whole answers a second, and chunks a second of streams that run at once."""
    await chats_per_s(url, CHAT, CLIENTS, SECONDS / 4)  # warm
    answers_per_s = await chats_per_s(url, CHAT, CLIENTS, SECONDS)
    started = time.monotonic()
    streams = await open_streams(url, [{**CHAT, "max_tokens": 64, "stream": True}] * CLIENTS)
    for stream in streams:
        await stream.lost.wait()
    took_s = time.monotonic() - started
    chunks = sum(len(decoded(stream.pieces).events) - 1 for stream in streams)
    return {"answers_per_s": answers_per_s, "chunks_per_s": chunks / took_s}


@contextmanager
def ours(folder: Path, root: Path) -> Iterator[str]:
    """The whole service with the model."""
    args = [*worker_args(folder, torch.get_num_threads()), "--max-batch-size", str(CLIENTS)]
    with (
        stack(root / "stack", worker_args=args) as running,
        Client(running.redis_url) as client,
    ):
        running.wait_ready(client)
        with gateway(Path(__file__).parents[2], running.redis_url, root) as (url, _):
            yield url


@contextmanager
def vllm(python: Path, folder: Path, root: Path) -> Iterator[str]:
    """vLLM's server with the model, once it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cores = sorted(os.sched_getaffinity(0))[: torch.get_num_threads()]
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "4",
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "VLLM_NO_USAGE_STATS": "1",
    }
    command = [
        *(str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)),
        *("--served-model-name", "bench", "--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "bfloat16", "--max-model-len", "1024", "--max-num-seqs", str(CLIENTS)),
        "--no-enable-prefix-caching",
    ]
    log = root / "vllm.log"
    with (
        log.open("wb") as out,
        subprocess.Popen(command, env=environment, stdout=out, stderr=out) as process,
    ):
        try:
            _wait_ready(f"http://127.0.0.1:{port}/v1/models", process, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def _wait_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    give_up_at = time.monotonic() + START_S
    while True:
        try:
            with urllib.request.urlopen(url) as response:
                assert json.load(response)["data"]
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > give_up_at:
                raise SystemExit(f"vLLM's server doesn't start:\n{log.read_text()[-2000:]}") from None
        time.sleep(0.5)
