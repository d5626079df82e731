"""What a dead webhook receiver costs the engine: nothing, or a few per cent?

    python -m benchmarks.webhooks [--hanging 1000] [--requests 64] [--rounds 3] [--json FILE]

One service (Redis, worker, callbacks) runs the same requests in turn: with no webhook under way, and while so
many deliveries hang at once on a receiver that accepts connections and never answers.
"""

import argparse
import contextlib
import resource
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from headrace import Client
from headrace.local.stack import stack
from headrace.schemas.webhooks.delivery import DeliveryState

from .machine import machine, save
from .service import save_served_model, service, worker_args
from .tables import webhooks_table
from .workload import S, workload

HANG_S = 60
"""The longest that a receiver may be given; the deliveries hang for so long."""


class DeadReceiver:
    """Accepts connections and never answers."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._held: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        port: int = self._server.getsockname()[1]
        return port

    @property
    def held(self) -> int:
        """Connections accepted."""
        return len(self._held)

    def release(self) -> None:
        """Come to life: all that hangs is delivered."""
        while self._held:
            with self._held.pop() as connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._held.append(self._server.accept()[0])


@contextlib.contextmanager
def hanging(client: Client, receiver: DeadReceiver, count: int) -> Iterator[None]:
    """So many deliveries hang: of jobs that are cancelled while they wait, to as many endpoints."""
    jobs = client.enqueue_many(
        {
            "prompt_token_ids": [1],
            "model": "bench",
            "delay_s": 3600,
            "webhook": {"url": f"http://127.0.0.1:{receiver.port}/{time.time_ns()}/{number}"},
        }
        for number in range(count)
    )
    for job in jobs:
        job.cancel()
    give_up_at = time.monotonic() + 30
    while receiver.held < count and time.monotonic() < give_up_at:
        time.sleep(0.05)
    if receiver.held < count:
        raise SystemExit(f"only {receiver.held} of {count} deliveries hang")
    yield
    receiver.release()
    while client.admin.deliveries(state=DeliveryState.PENDING, limit=1):
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hanging", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="a file, or a folder to name it in")
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * options.hanging)), hard))
    items = workload(options.requests, S.vocab)
    alone: list[float] = []
    beside: list[float] = []
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "model"
        save_served_model(S, folder)
        callbacks_args = [
            *("--webhook-allow", "127.0.0.1", "--webhook-timeout-s", str(HANG_S)),
            # One origin may have as many under way as it leaves free.
            *("--webhook-concurrency", str(2 * options.hanging)),
        ]
        receiver = DeadReceiver()
        with (
            stack(
                Path(root) / "stack",
                worker_args=worker_args(folder, options.threads),
                callbacks_args=callbacks_args,
            ) as running,
            Client(running.redis_url) as client,
        ):
            running.wait_ready(client)
            service(client, items)
            for number in range(options.rounds):
                if number % 2 == 0:
                    alone.append(service(client, items))
                with hanging(client, receiver, options.hanging):
                    beside.append(service(client, items))
                if number % 2 == 1:  # in turns: a machine that speeds up or slows down favours neither
                    alone.append(service(client, items))
    facts: dict[str, object] = {
        "benchmark": "webhooks",
        "machine": machine(),
        "model": asdict(S),
        "hanging": options.hanging,
        "requests": options.requests,
        "rounds": options.rounds,
        "output_tokens": sum(item.output_tokens for item in items),
        "seconds": {"alone": alone, "beside": beside},
    }
    if options.json:
        save(facts, options.json, "webhooks")
    print(webhooks_table(facts))


if __name__ == "__main__":
    main()
