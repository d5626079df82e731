"""Headrace's own Redis in Celery's terms: the broker URL and options."""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from ..keys import celery_prefix
from .connection import Address, Kind


@dataclass(frozen=True, slots=True)
class Broker:
    """Settings for a Celery app.

    Attributes:
        url: URL of the broker and of the result backend.
        tls: `broker_use_ssl`; None without TLS.
        transport_options: options of the broker and of the result backend.
    """

    url: str = field(repr=False)
    tls: dict[str, Any] | None
    transport_options: dict[str, Any] = field(repr=False)


def broker(redis_url: str, namespace: str) -> Broker | None:
    """How Celery reaches the Redis at `redis_url`; None for a Redis Cluster, which kombu can't use.

    Raises:
        ValueError: it isn't a Redis URL.
    """
    address = Address.parse(redis_url)
    options: dict[str, Any] = {"global_keyprefix": celery_prefix(namespace)}
    tls = {name: value for name, value in address.options.items() if name.startswith("ssl_")}
    tls_options = {"ssl_cert_reqs": "required"} | tls if address.tls else None
    user, password = address.options.get("username") or "", address.options.get("password") or ""
    login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""
    database = address.options.get("db", 0)
    match address.kind:
        case Kind.CLUSTER:
            return None
        case Kind.SENTINEL:
            urls = [f"sentinel://{login}{_at(host, port)}/{database}" for host, port in address.hosts]
            options["master_name"] = address.service
            if address.sentinel_options:
                options["sentinel_kwargs"] = address.sentinel_options
            return Broker(";".join(urls), tls_options, options)
        case Kind.SERVER if address.path:
            path = quote(address.path)
            # kombu takes the whole path for the socket's, so the database has to be an option.
            return Broker(f"redis+socket://{login}{path}?virtual_host={database}", None, options)
        case Kind.SERVER:
            place = _at(*address.hosts[0])
            scheme = "rediss" if address.tls else "redis"
            return Broker(f"{scheme}://{login}{place}/{database}", tls_options, options)


def _at(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
