"""Settings of `headrace callbacks`."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from ...schemas.settings.celery import CelerySettings
from ...schemas.settings.common import split


class CallbacksSettings(CelerySettings):
    """What follows from jobs, and how hard to try.

    Attributes:
        app: the Celery app whose tasks are completed, as `module:name`.
        callbacks_queue: the Celery queue of generations that were sent by their task's name alone.
        celery_unsigned: send what follows from tasks whose messages are not signed, for as long as there are
            producers of a version that did not sign.
        relay_s: an outbox entry, once taken up, is another process's to see to after so long.
        webhook_allow: receivers that may be private: host names, `host:port`, networks like `10.1.0.0/16`.
        webhook_timeout_s: what a receiver gets for its whole answer.
        webhook_concurrency: attempts under way at once, of all endpoints together.
        webhook_retention_s: how long a delivery is kept, its retries included.
        metrics_port: serves Prometheus metrics and health; 0 takes a free port, None serves none.
        metrics_host: the address to serve them on.
        log_level: `debug`, `info`, `warning` or `error`.
    """

    app: Annotated[str, Field(min_length=1)] = "headrace.celery:app"
    callbacks_queue: Annotated[str, Field(min_length=1)] = "headrace"
    celery_unsigned: bool = False
    relay_s: Annotated[float, Field(ge=0.5, le=600)] = 10.0
    webhook_allow: Annotated[tuple[str, ...], NoDecode, BeforeValidator(split)] = ()
    webhook_timeout_s: Annotated[float, Field(gt=0, le=60)] = 15.0
    webhook_concurrency: Annotated[int, Field(ge=1, le=4096)] = 256
    webhook_retention_s: Annotated[float, Field(ge=60)] = 7 * 86_400.0
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    metrics_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
