"""A team's backend in a process of its own, which generates through Celery and verifies the webhook."""

import asyncio
import hmac
import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from ...schemas.errors import DemoFailed
from ...schemas.webhooks.signing import new_secret, sign

ADDRESS = "127.0.0.1"
"""Where the backend receives webhooks: a private address, which `headrace callbacks` must allow."""

PROMPT = "A list is"
WAIT_S = 60.0
_TO_THE_SECOND = len("2026-01-31T12:00:00")


class Receiver(HTTPServer):
    """Receives webhooks that were signed with `secret`."""

    def __init__(self, secret: str) -> None:
        super().__init__((ADDRESS, 0), _Handler)
        self.secret, self.timeout = secret, WAIT_S
        self.verified: list[dict[str, Any]] = []

    def handle_timeout(self) -> None:
        """No webhook came."""
        raise TimeoutError(f"no webhook arrived within {WAIT_S:.0f} s")


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        sent_at_s = int(self.headers["webhook-timestamp"])
        expected = sign(self.headers["webhook-id"], sent_at_s, body, [self.server.secret])
        verified = hmac.compare_digest(expected, self.headers["webhook-signature"])
        if verified:
            self.server.verified.append(json.loads(body))
        self.send_response(204 if verified else 403)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the standard library's name)
        """Log nothing."""


async def run(redis_url: str) -> list[tuple[str, str]]:
    """Run `main` in a process of its own; return what it found.

    Raises:
        DemoFailed: it ended with an error, which it has printed.
    """
    command = [sys.executable, "-c", f"from {__name__} import main; main()"]
    process = await asyncio.create_subprocess_exec(
        *command,
        env=os.environ | {"HEADRACE_REDIS_URL": redis_url},
        stdout=subprocess.PIPE,
        process_group=0,  # a terminal's Ctrl-C is for the tour, which then ends this process
    )
    try:
        found, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise DemoFailed(f"the Celery project ended with status {process.returncode}; its error is above")
    return [(name, value) for name, value in json.loads(found)]


def main() -> None:
    """Generate with a Celery task, learn of its end in both ways, and write the facts as JSON."""
    from ...celery import generate

    with Receiver(new_secret()) as receiver:
        webhook = {"url": f"http://{ADDRESS}:{receiver.server_port}/", "secret": receiver.secret}
        started = time.monotonic()
        result = generate.delay(PROMPT, model="demo", max_tokens=24, seed=1, webhook=webhook)
        text = result.get(timeout=WAIT_S)["text"]
        took_s = time.monotonic() - started
        while not receiver.verified:
            receiver.handle_request()
        (event,) = receiver.verified
    told = [
        (f'generate.delay("{PROMPT}").get()', f"{' '.join(text.split())} ({took_s:.1f} s)"),
        ("webhook, signature verified", f"{event['type']} at {event['timestamp'][:_TO_THE_SECOND]}"),
    ]
    sys.stdout.write(json.dumps(told))
