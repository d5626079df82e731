"""Logs: JSON lines on stderr, or readable ones if stderr is a terminal. Never prompt text, never a secret.

The standard library's loggers (celery, kombu, redis, transformers) take the same path as structlog's. Every
line passes through `_withhold` last: values under names that carry content are removed however deeply they
are nested, and passwords in URLs are masked even inside messages and tracebacks.
"""

import logging
import logging.config
import os
import re
import sys
import threading
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from ..schemas.redis.connection import without_password
from .stderr import LineHandler

log = structlog.get_logger(__name__)

WITHHELD = frozenset(
    {
        *("prompt", "messages", "content", "text", "output", "spec", "body", "payload", "chunk", "tools"),
        *("metadata", "stop", "args", "kwargs", "argsrepr", "kwargsrepr"),
        *("token_ids", "prompt_token_ids", "prompt_ids", "output_ids", "logprobs"),
        *("secret", "secrets", "password", "api_key", "authorization", "idempotency_key"),
    }
)
"""Names whose values never reach a log."""

_MASKS = (
    (
        re.compile(r"input_value=.*?(?=, input_type=)", re.DOTALL),
        "input_value=...",
    ),  # pydantic quotes its input
    # Celery quotes messages that it can't understand.
    (re.compile(r"(?s)(contents of the message body was:|\[type:).*"), r"\1 ..."),
    (re.compile(r"whsec_[A-Za-z0-9+/=]+"), "whsec_***"),
    (re.compile(r"\bhr_([0-9a-f]{16})_[A-Za-z0-9_-]+"), r"hr_\1_***"),
    (re.compile(r"(?i)\bbearer\s+\S+"), "Bearer ***"),
)

_MASKABLE = re.compile(r"[@=]|\[type:|message body|whsec_|hr_|(?i:bearer)")
"""What is in every text that a mask matches. Most texts have none of it, and a gateway logs each request."""


def configure(level: str, **bound: str | int) -> None:
    """Set up logging for this process.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        bound: fields to add to every line, such as the worker's id and model.
    """
    _open_closed_streams()

    def bind(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return {**bound, **event}

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        bind,
        structlog.processors.format_exc_info,
    ]
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "line": {
                    "()": structlog.stdlib.ProcessorFormatter,
                    "processors": [
                        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                        _withhold,
                        _renderer(),
                    ],
                    "foreign_pre_chain": shared,
                }
            },
            "handlers": {"stderr": {**_handler(), "formatter": "line"}},
            "root": {"handlers": ["stderr"], "level": level.upper()},
        }
    )
    logging.captureWarnings(True)
    for name in (
        "redis.connection",
        "redis.asyncio.connection",
    ):  # logs one line per connection about what it can't do
        logging.getLogger(name).setLevel(logging.INFO)
    sys.excepthook, threading.excepthook = _log_crash, _log_thread_crash
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _handler() -> dict[str, Any]:
    try:
        return {"()": LineHandler, "fd": sys.stderr.fileno()}
    except (OSError, ValueError):  # it isn't a file
        return {"class": "logging.StreamHandler"}


def _log_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log the exception that ends the process as one event, instead of a traceback of many lines."""
    if not issubclass(kind, KeyboardInterrupt):
        log.critical("crashed", exc_info=(kind, error, trace))


def _log_thread_crash(thread: threading.ExceptHookArgs) -> None:
    if thread.exc_value is not None and thread.exc_type is not SystemExit:
        name = thread.thread.name if thread.thread else ""
        exc_info = thread.exc_type, thread.exc_value, thread.exc_traceback
        log.critical("thread_crashed", thread=name, exc_info=exc_info)


def _open_closed_streams() -> None:
    """Open /dev/null in place of a standard stream that was closed at startup.

    Otherwise the next socket would get its number, and receive everything that is printed here and in the
    processes that are started from here.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        null = os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one, unless it is taken
        os.set_inheritable(null, null == number)
        setattr(sys, name, os.fdopen(null, "r" if name == "stdin" else "w"))


def settle() -> None:
    """Discard what can no longer be written at exit, or Python's exit status would report only that."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # the disk is full, or the reader is gone
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


def adopt(logger_name: str) -> None:
    """Take over a library's logger that prints by itself (`transformers`), once it has been imported."""
    logger = logging.getLogger(logger_name)
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
    logger.propagate = True


def _renderer() -> Processor:
    if sys.stderr.isatty():
        return structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    return structlog.processors.JSONRenderer()


def _withhold(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Remove content, secrets and objects with a repr of their own, just before a line is written."""
    return {str(name): _clean(value) for name, value in event.items() if name not in WITHHELD}


def _clean(value: Any) -> Any:
    match value:
        case Enum():
            return _clean(value.value)
        case None | bool() | int() | float():
            return value
        case str() | Path() | BaseException():
            return _masked(str(value))
        case Mapping():
            return {str(name): _clean(item) for name, item in value.items() if name not in WITHHELD}
        case list() | tuple() | set() | frozenset():
            return [_clean(item) for item in value]
        case _:  # its repr may contain anything, such as a whole job
            return f"<{type(value).__name__}>"


def _masked(text: str) -> str:
    if _MASKABLE.search(text) is None:
        return text
    text = without_password(text)
    for pattern, mask in _MASKS:
        text = pattern.sub(mask, text)
    return text
