"""A vLLM server, started here or found running, and the thread that talks to it."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from ..config import EngineConfig
from ..errors import ModelError
from .child import VllmProcess
from .errors import Interrupted, ServerRefused
from .facts import ServerFacts, keys_noise_by_position, read_facts
from .http import ServerAddress, ServerRoutes

FOUND_S = 60.0
"""How long a running server may be unreachable before the engine process has failed to start. Its host starts
another one, so the server may be away for as long as it takes."""

_PAUSE_S = 0.25

T = TypeVar("T")


class VllmServer:
    """A connection to one server.

    Attributes:
        facts: what it says about itself.
        http: its routes; only for the loop's thread.
        noise_by_position: whether its noise is a function of seed and position, as was found by trying.
    """

    def __init__(self, config: EngineConfig) -> None:
        """Start a server or find the one that is named, and wait until it is ready.

        Raises:
            ModelError: it doesn't start, or can't be used.
        """
        self._key = _api_key()
        url = config.server.url
        # In this thread, which lives as long as the process does.
        self._child = VllmProcess(config) if url is None else None
        self.address = ServerAddress(str(url).rstrip("/")) if self._child is None else self._child.address
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="headrace-vllm", daemon=True)
        self._thread.start()
        self.noise_by_position = False
        try:
            self.facts = self.start(self._open(config)).result()
        except BaseException:
            self.close()
            raise

    @property
    def ended(self) -> str | None:
        """Why the server that was started here has ended."""
        return self._child.ended if self._child else None

    def start(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Run something in the loop's thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, act: Callable[[Any], None], on: object) -> None:
        """Do something in the loop's thread."""
        self._loop.call_soon_threadsafe(act, on)

    def close(self) -> None:
        """End the conversation, and the server if it was started here."""
        if self._thread.is_alive():
            self.start(self._end()).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
        if self._child:
            self._child.stop()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if hasattr(self, "http"):
            await self.http.close()

    async def _open(self, config: EngineConfig) -> ServerFacts:
        self.http = http = ServerRoutes(self.address, key=self._key)
        give_up_at = time.monotonic() + FOUND_S
        while True:
            try:
                await http.call("/health")
                facts = await read_facts(http, self.address, config.model)
                self.noise_by_position = await keys_noise_by_position(http, facts)
                return facts
            except ServerRefused as error:
                raise ModelError(
                    f"{self.address} can't be used: it answers with status {error.status}: {error}"
                ) from None
            except Interrupted as error:
                if self._child is None and time.monotonic() >= give_up_at:
                    raise ModelError(f"no vLLM server answers at {self.address}: {error}") from error
            ended = self.ended
            if ended:
                raise ModelError(ended)
            await asyncio.sleep(_PAUSE_S)


def _api_key() -> str | None:
    """The server's API key, refused here if it can't be sent: the HTTP library's error would repeat it."""
    key = os.environ.get("VLLM_API_KEY") or None
    if key is not None and not all("!" <= each <= "~" for each in key):
        raise ModelError(
            "VLLM_API_KEY has a space, a line break or another character that isn't printable ASCII; "
            "set it to the key alone"
        )
    return key
