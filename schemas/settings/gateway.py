"""Settings of `headrace gateway`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from ..job import JobClass
from .common import split
from .files import FilesSettings


class GatewaySettings(FilesSettings):
    """Where the gateway listens, who may use it, and how much it takes from one client.

    Attributes:
        gateway_host: address to listen on.
        gateway_port: port to listen on; 0 picks a free one.
        gateway_auth: require an API key. Without it everybody is the tenant `default`, so it may only be
            turned off on a loopback address.
        gateway_job_class: class of jobs whose request names none, by `service_tier` or otherwise.
        default_max_tokens: the most that a chat or a response generates whose request doesn't say; by default
            all that the model's context has room for. A tenant's rate is charged with it, and as long as
            answers' usual lengths aren't known, workers keep room for all of it.
        gateway_cors_origins: origins whose pages may call the gateway from a browser; none by default.
        gateway_max_body_bytes: maximum size of a request's body, except for files.
        gateway_max_header_bytes: maximum size of a request's line and headers.
        gateway_max_connections: maximum number of open connections; further ones are answered 503.
        gateway_header_s: how long a client may take to send a request's headers.
        gateway_body_s: how long a client may take to send each part of a body.
        gateway_write_s: how long a client may leave sent data unread before it is disconnected.
        gateway_idle_s: how long an idle connection stays open.
        gateway_ping_s: a silent stream carries a comment this often, so that proxies keep it open.
        gateway_wait_s: longest wait for an answer that isn't streamed; the client gets 504 after it.
        gateway_response_s: how long stored responses can be read and continued. An answer that nobody has
            read by then is kept for `retention_s` after its job has ended.
        gateway_finish_s: how long answers and streams may take to end when the gateway is stopped. Streams
            then end with a comment, and continue at another gateway.
        gateway_tls_cert: certificate chain in PEM; the gateway then speaks only HTTPS.
        gateway_tls_key: its private key in PEM.
        metrics_port: port for Prometheus metrics and health; 0 picks a free one, None serves neither.
        metrics_host: address to serve them on.
        log_level: `debug`, `info`, `warning` or `error`.
    """

    gateway_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    gateway_port: Annotated[int, Field(ge=0, le=65535)] = 8000
    gateway_auth: bool = True
    gateway_job_class: JobClass = JobClass.STANDARD
    default_max_tokens: Annotated[int, Field(ge=1, le=2**24)] | None = None
    gateway_cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(split)] = ()
    gateway_max_body_bytes: Annotated[int, Field(ge=1024)] = 8 * 2**20
    gateway_max_header_bytes: Annotated[int, Field(ge=1024, le=2**20)] = 32 * 2**10
    gateway_max_connections: Annotated[int, Field(ge=1)] = 10_000
    gateway_header_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    gateway_body_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    gateway_write_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    gateway_idle_s: Annotated[int, Field(ge=1, le=3600)] = 75
    gateway_ping_s: Annotated[float, Field(gt=0, le=3600)] = 15.0
    gateway_wait_s: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    gateway_response_s: Annotated[float, Field(gt=0, le=31_536_000)] = 86_400.0
    gateway_finish_s: Annotated[float, Field(ge=0, le=3600)] = 10.0
    gateway_tls_cert: Path | None = None
    gateway_tls_key: Path | None = None
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    metrics_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
