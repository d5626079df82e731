"""A client that reads one stream to its end, whatever it or anything else suffers meanwhile.

`stream_reader.py <base URL> <path> <idempotency key> <body> <file>`: each event is a line of the file, its id
and its data in JSON. Killed and started again, it goes on after the last line, as it does when a connection
ends too early.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

PAUSE_S = 0.1
"""Between two connections."""
ENDS = {"end", "response.completed", "response.incomplete"}


def events(response: httpx.Response) -> Iterator[tuple[str, str]]:
    """What comes, as ids and data."""
    event_id = ""
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if name == "id":
            event_id = value
        elif name == "data":
            yield event_id, value


def is_last(data: str) -> bool:
    """Whether nothing follows: OpenAI's mark, or the last event of a response or a job."""
    return data == "[DONE]" or json.loads(data).get("type") in ENDS


def is_error(data: str) -> bool:
    """Whether the gateway stops or Redis is away: what is missing comes with another connection."""
    said = {} if data == "[DONE]" else json.loads(data)
    return bool(said.get("error")) or said.get("type") == "error"


def connect(
    http: httpx.Client, path: str, key: str, body: dict[str, object], last: str | None
) -> Iterator[tuple[str, str]]:
    """Ask for the stream, or for what follows the event that was seen last."""
    headers = {"idempotency-key": key}
    method: str = "POST"
    sent: dict[str, object] | None = body
    if path == "/v1/jobs":
        path = http.post(path, json=body, headers=headers).raise_for_status().headers["location"] + "/stream"
        method, sent = "GET", None
    if last is not None:
        headers["last-event-id"] = last
    with http.stream(method, path, json=sent, headers=headers) as response:
        response.raise_for_status()
        yield from events(response)


def read(base_url: str, path: str, key: str, body: dict[str, object], file: Path) -> None:
    """Read on, connection after connection, until the last event is in the file."""
    seen = file.read_bytes().splitlines() if file.exists() else []
    last = json.loads(seen[-1])[0] if seen else None
    with file.open("ab", buffering=0) as out, httpx.Client(base_url=base_url, timeout=30) as http:
        while True:
            try:
                for event_id, data in connect(http, path, key, body, last):
                    if is_error(data):
                        break
                    os.write(out.fileno(), json.dumps([event_id, data]).encode() + b"\n")
                    last = event_id
                    if is_last(data):
                        return
            except httpx.HTTPError:
                pass
            time.sleep(PAUSE_S)


if __name__ == "__main__":
    read(*sys.argv[1:4], json.loads(sys.argv[4]), Path(sys.argv[5]))
