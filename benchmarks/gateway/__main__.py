"""What one gateway process adds to streams that are read through it, with a model that costs nothing.

    python -m benchmarks.gateway [--streams 256 2000] [--seconds 10] [--against FOLDER] [--json FILE]

Chats are streamed through a gateway, while a raw Redis reader gets the same chunks. Every stream must have
all of its tokens, in order, once. Measured while they run: how much later than the raw reader a client has a
chunk, and the CPU time that a chunk takes of the gateway and of the reader. Measured before: whole answers a
second, and the memory of streams on which nothing happens yet. With `--against`, the gateway of another
checkout of headrace has its turn in the same run. Where vLLM is installed (`make peers`), its server and the
whole service with the same model get the same requests.
"""

import argparse
import asyncio
import gc
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from ..costless import TEXT
from ..machine import machine, save
from . import peers
from .processes import Measured, Reader, gateway, raise_open_files, reader, service, settled_rss, spent_s
from .table import gateway_table
from .wire import Connection, chats_per_s, chunk_times, decoded, open_streams

ROOT = Path(__file__).parents[2]

CLIENTS, ANSWER_TOKENS = 64, 16
"""Of the answers that aren't streamed."""

A_WORKER = 250
"""Streams that get their tokens at once: more of them are paced as those of several workers."""

ENDS_WITHIN_S = 60.0

CHAT = {"model": "bench", "messages": [{"role": "user", "content": "What does str.split do?"}]}


def percentile(values: list[float], part: float) -> float:
    """The smallest value that is not less than this part of them."""
    return sorted(values)[max(0, round(part * len(values)) - 1)]


async def all_ended(streams: list[Connection]) -> None:
    """Wait for their ends.

    Raises:
        SystemExit: some don't end.
    """
    try:
        async with asyncio.timeout(ENDS_WITHIN_S):
            for stream in streams:
                await stream.lost.wait()
    except TimeoutError:
        left = [decoded(stream.pieces).events for stream in streams if not stream.lost.is_set()]
        raise SystemExit(
            f"{len(left)} of {len(streams)} streams have not ended after {ENDS_WITHIN_S:g} s; they have "
            f"{min(map(len, left))} to {max(map(len, left))} events, one of them at last {left[0][-1:]}"
        ) from None


async def load(
    measured: Measured, url: str, process: Any, raw: Reader, streams: int, options: argparse.Namespace
) -> dict[str, float]:
    """Run chats, then streams; see the module."""
    measured.run_freely()
    chat = {**CHAT, "max_tokens": ANSWER_TOKENS, "ignore_eos": True}
    answers_per_s = await chats_per_s(url, chat, min(CLIENTS, streams), options.seconds / 4)

    measured.pause()
    max_tokens = 2 + round(options.tokens_per_s * options.seconds / streams)
    body = {**chat, "max_tokens": max_tokens, "stream": True, "return_token_ids": True}
    before = settled_rss(process)
    open_ = await open_streams(url, [body] * streams)
    idle_bytes = (settled_rss(process) - before) / streams

    processes = {"gateway": process, "reader": raw.process}
    gc.disable()
    spent = {name: spent_s(each) for name, each in processes.items()}
    begins = time.monotonic_ns()
    measured.run(min(streams, A_WORKER), options.tokens_per_s)
    await asyncio.sleep(options.seconds)
    ends = time.monotonic_ns()
    spent = {name: spent_s(each) - spent[name] for name, each in processes.items()}
    await all_ended(open_)
    gc.enable()

    token_ids = [TEXT[left % len(TEXT)] for left in reversed(range(max_tokens))]
    published, added_ms = raw.end(), []
    for connection in open_:
        stream = decoded(connection.pieces)
        first = published[stream.job_id]
        for offset, at in chunk_times(stream, token_ids).items():
            if begins < first[offset] < ends:
                added_ms.append((at - first[offset]) / 1e6)
    return {
        "chunks": len(added_ms),
        "tokens": streams * max_tokens,
        "added_p50_ms": percentile(added_ms, 0.5),
        "added_p99_ms": percentile(added_ms, 0.99),
        "gateway_s": spent["gateway"],
        "reader_s": spent["reader"],
        "idle_bytes": idle_bytes,
        "answers_per_s": answers_per_s,
    }


def measure(
    measured: Measured, checkout: Path, streams: int, options: argparse.Namespace
) -> dict[str, float]:
    """One gateway with so many streams."""
    with (
        tempfile.TemporaryDirectory() as folder,
        gateway(checkout, measured.url, Path(folder)) as (url, process),
        reader(measured.url) as raw,
    ):
        return uvloop.run(load(measured, url, process, raw, streams, options))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, nargs="+", default=[256, 2000])
    parser.add_argument("--tokens-per-s", type=float, default=2000.0, help="of all streams together")
    parser.add_argument("--seconds", type=float, default=10.0, help="measured, in each round")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--against", type=Path, help="another checkout of headrace")
    parser.add_argument("--name", help="what the other is called in the table")
    parser.add_argument("--json", type=Path, help="a file, or a folder to name it in")
    options = parser.parse_args()
    raise_open_files(2 * max(options.streams) + 500)
    checkouts = {"headrace": ROOT}
    if options.against:
        checkouts = {options.name or options.against.name: options.against.absolute()} | checkouts
    rounds: dict[str, dict[str, list[dict[str, float]]]] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        service(Path(folder), max(*options.streams, CLIENTS)) as measured,
    ):
        for _ in range(options.rounds):
            for streams in options.streams:
                for name, checkout in checkouts.items():
                    found = measure(measured, checkout, streams, options)
                    rounds.setdefault(str(streams), {}).setdefault(name, []).append(found)
    facts: dict[str, object] = {
        "benchmark": "gateway",
        "machine": machine(),
        "rounds": options.rounds,
        "options": {"tokens_per_s": options.tokens_per_s, "clients": CLIENTS, "max_tokens": ANSWER_TOKENS},
        "streams": rounds,
        "vllm": peers.beside_vllm(),
    }
    if options.json:
        save(facts, options.json, "gateway")
    print(gateway_table(facts))


if __name__ == "__main__":
    main()
