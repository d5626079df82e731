"""A vLLM server as a child of the engine process, on a leash that ends it with this process."""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import deque
from pathlib import Path

from ..config import EngineConfig
from ..errors import ModelError
from .http import ServerAddress

LAST_LINES = 30
"""How many of the server's last lines are kept to say why it ended."""

_LEASH = Path(__file__).with_name("leash.py")

_OURS = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PROMETHEUS_MULTIPROC_DIR"}

logger = logging.getLogger(__name__)


class VllmProcess:
    """A running `vllm serve`, by the module that is behind that command.

    Attributes:
        address: a socket in a folder that only this user can enter.
    """

    def __init__(self, config: EngineConfig) -> None:
        """Start it; it isn't ready yet.

        Raises:
            ModelError: there is no such interpreter, or vLLM isn't installed for it.
        """
        python = config.server.python or sys.executable
        if shutil.which(python) is None:
            raise ModelError(
                f"engine_python: there is no {python!r}; name the Python that vLLM is installed for"
            )
        self._folder = Path(tempfile.mkdtemp(prefix="headrace-vllm-"))
        self.address = ServerAddress("http://localhost", str(self._folder / "socket"))
        lifeline, self._lifeline = os.pipe()  # both ends are closed on exec; the leash inherits one
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        try:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    *("-I", "-S", str(_LEASH), str(lifeline), str(self._folder)),
                    *(python, "-m", "vllm.entrypoints.openai.api_server"),
                    *_flags(config, str(self.address)),
                ],
                pass_fds=(lifeline,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=_environment(),
            )
        except BaseException:
            os.close(self._lifeline)
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        finally:
            os.close(lifeline)
        self._reader = threading.Thread(target=self._read, name="headrace-vllm-log", daemon=True)
        self._reader.start()

    @property
    def ended(self) -> str | None:
        """Why it has ended; None while it runs."""
        status = self._process.poll()
        if status is None:
            return None
        self._reader.join(timeout=1.0)
        errors = [line for line in self._last if "Error" in line]
        last = (errors or list(self._last) or ["it said nothing"])[-1]
        return f"vLLM ended with status {status}: {last}"

    def stop(self) -> None:
        """End it, and everything that it started."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        self._process.wait()
        self._reader.join(timeout=1.0)
        if self._process.stdout is not None:
            self._process.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in iter(lambda: self._process.stdout.readline(10_000), b""):  # type: ignore[union-attr]
            text = line.decode(errors="replace").rstrip()
            if text:
                self._last.append(text)
                logger.info("vllm: %s", text)


def _flags(config: EngineConfig, socket: str) -> list[str]:
    """What vLLM is started with; the operator's own flags come last, and so win."""
    flags = [
        *("--model", config.model, "--uds", socket),
        *("--tokens-only", "--skip-tokenizer-init"),
        *("--max-num-seqs", str(config.max_batch_size)),
        *("--max-logprobs", "-1"),  # the worker's own limits hold
        *("--dtype", config.dtype),
        "--disable-uvicorn-access-log",
        "--enable-prefix-caching" if config.prefix_cache else "--no-enable-prefix-caching",
    ]
    if config.max_context_tokens is not None:
        flags += ["--max-model-len", str(config.max_context_tokens)]
    if config.max_step_tokens is not None:
        flags += ["--max-num-batched-tokens", str(config.max_step_tokens)]
    if config.kv_memory_bytes is not None:
        flags += ["--kv-cache-memory-bytes", str(config.kv_memory_bytes)]
    if config.num_pages is not None:
        flags += ["--num-gpu-blocks-override", str(config.num_pages)]
    if config.kv_dtype is not None:
        flags += ["--kv-cache-dtype", config.kv_dtype]
    return [*flags, *config.server.args]


def _environment() -> dict[str, str]:
    """The environment without headrace's settings, among which are secrets, and without this Python's own."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HEADRACE_") and name not in _OURS
    } | {"PYTHONUNBUFFERED": "1"}
