"""As much of the Hugging Face Hub as downloading a model takes, on loopback."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import urlsplit

SHA = "c0ffee" + "0" * 34


@dataclass
class FakeHub:
    """A Hub with models; it answers what it has, and otherwise as the Hub refuses.

    Attributes:
        models: each one's files.
        gated: models whose files need their terms accepted.
        sizes: what it says of files' sizes, where it isn't the truth.
        held: files of which only the first half arrives before the event is set.
        breaks: how many times a file's connection ends in its middle.
        sent: files and the first byte that was asked for, in order.
    """

    models: Mapping[str, Mapping[str, bytes]]
    gated: frozenset[str] = frozenset()
    sizes: dict[str, int] = field(default_factory=dict)
    held: dict[str, threading.Event] = field(default_factory=dict)
    breaks: dict[str, int] = field(default_factory=dict)
    sent: list[tuple[str, int]] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve it while the block lasts."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield hub
        finally:
            for event in hub.held.values():
                event.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: ClassVar[FakeHub]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        if found := re.fullmatch(r"/api/models/(.+?)/tree/[^/]+", path):
            self._list(found[1], tree=True)
        elif found := re.fullmatch(r"/api/models/(.+?)(/revision/[^/]+)?", path):
            self._list(found[1], tree=False)
        elif found := re.fullmatch(r"/(.+?)/resolve/[^/]+/(.+)", path):
            self._file(found[1], found[2])
        else:
            self._refuse(404, "EntryNotFound")

    def _list(self, model: str, *, tree: bool) -> None:
        files = self.hub.models.get(model)
        if files is None:
            self._refuse(401, "RepoNotFound")
            return
        facts = [(name, self.hub.sizes.get(name, len(data)), _etag(data)) for name, data in files.items()]
        answer: object = [
            {"type": "file", "path": name, "size": size, "oid": etag} for name, size, etag in facts
        ]
        if not tree:
            siblings = [{"rfilename": name, "size": size, "blobId": etag} for name, size, etag in facts]
            answer = {"id": model, "sha": SHA, "siblings": siblings}
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _file(self, model: str, name: str) -> None:
        data = self.hub.models.get(model, {}).get(name)
        if model in self.hub.gated:
            self._refuse(403, "GatedRepo")
            return
        if data is None:
            self._refuse(404, "EntryNotFound")
            return
        start = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or ["", "0"])[1])
        headers = {"ETag": f'"{_etag(data)}"', "X-Repo-Commit": SHA, "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if self.command == "GET":
            self.hub.sent.append((name, start))
        self._send(206 if start else 200, data[start:], headers, name)

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str], name: str = "") -> None:
        self.send_response(status)
        for header, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        half = len(body) // 2
        try:
            self.wfile.write(body[:half])
            self.wfile.flush()
            if self.hub.breaks.get(name, 0):
                self.hub.breaks[name] -= 1
                self.close_connection = True
                return
            if name in self.hub.held:
                self.hub.held[name].wait(90)
            self.wfile.write(body[half:])
        except OSError:  # the reader was killed
            self.close_connection = True


def _etag(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
