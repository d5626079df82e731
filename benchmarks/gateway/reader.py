"""The least that a reader of all streams can do: redis-py, which notes each message's time.

    python -m benchmarks.gateway.reader URL PATTERN

It prints a line once it listens; when its input ends, the times of all chunks as JSON: by channel, a list of
offsets and nanoseconds.
"""

import asyncio
import json
import sys
import time

import uvloop
from redis.asyncio import Redis


async def main(url: str, pattern: str) -> None:
    came: list[tuple[int, bytes, bytes]] = []
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    async with Redis.from_url(url) as redis, redis.pubsub() as pubsub:
        await pubsub.psubscribe(pattern)

        async def listen() -> None:
            async for message in pubsub.listen():
                if message["type"] == "pmessage":
                    came.append((time.monotonic_ns(), message["channel"], message["data"]))
                else:
                    print("listening", flush=True)

        listening = asyncio.create_task(listen())
        await ended.wait()
        listening.cancel()
    by_channel: dict[str, list[tuple[int, int]]] = {}
    for at, channel, payload in came:
        event = json.loads(payload)
        if "end" not in event:
            by_channel.setdefault(channel.decode(), []).append((event["offset"], at))
    json.dump(by_channel, sys.stdout)


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
