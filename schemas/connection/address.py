"""Redis URLs: one server, a Sentinel's service, or a Cluster.

    redis://[user:password@]host:port/db            rediss:// with TLS; unix://path
    redis+sentinel://[user:password@]host:port[,host:port...]/service[/db]
    redis+cluster://[user:password@]host:port[,host:port...]

Several hosts are Sentinels, or nodes of the Cluster to begin with. `rediss+sentinel://` and
`rediss+cluster://` use TLS. Options of redis-py may follow `?`: `ssl_ca_certs=`, `ssl_certfile=`,
`ssl_keyfile=`, `ssl_cert_reqs=`. `sentinel_username=` and `sentinel_password=` are for the Sentinels
themselves.
"""

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from redis.connection import SSLConnection, parse_url

_SCHEME = re.compile(r"(rediss?)\+(sentinel|cluster)$")
_PARTS = re.compile(r"(?:([^/?#]*)@)?([^/?#]*)([^?#]*)\??([^#]*)")
"""Login, hosts, path and query. The standard library refuses several hosts with one in brackets."""

_DEFAULT_PORT = {"sentinel": 26379, "cluster": 6379}


class Kind(Enum):
    """How Redis is run."""

    SERVER = "server"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class Address:
    """Where Redis is.

    Attributes:
        kind: how it is run.
        url: as redis-py takes it; for a Sentinel or Cluster that of one server, with the first host.
        hosts: the Sentinels, or nodes of the Cluster.
        service: the Sentinels' name for the primary.
        tls: whether connections are encrypted.
        options: redis-py's options of a connection, the login among them.
        sentinel_options: those of a connection to a Sentinel.
    """

    kind: Kind
    url: str = field(repr=False)
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    tls: bool = False
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, url: str) -> "Address":
        """The address in a URL.

        Raises:
            ValueError: it is no Redis URL; the message says what is wrong with it.
        """
        scheme, _, rest = url.partition("://")
        match = _SCHEME.match(scheme)
        if match is None:
            options = dict(parse_url(url))
            tls = options.pop("connection_class", None) is SSLConnection
            return cls(Kind.SERVER, url, tls=tls, options=options)
        plain, kind = match[1], Kind(match[2])
        parts = _PARTS.match(rest)
        assert parts is not None  # it may be empty
        login, places, names, options_text = parts.groups("")
        hosts = tuple(_host(place, _DEFAULT_PORT[kind.value]) for place in places.split(","))
        path = [unquote(part) for part in names.split("/") if part]
        service = _service(path) if kind is Kind.SENTINEL else ""
        database = path[0] if path else "0"
        if not database.isdigit() or len(path) > 1 or (kind is Kind.CLUSTER and database != "0"):
            what = "a Cluster has no databases" if kind is Kind.CLUSTER else "the database must be a number"
            raise ValueError(f"{what}, got /{'/'.join(path)}")
        query = dict(parse_qsl(options_text))
        sentinel = {
            name.removeprefix("sentinel_"): query.pop(name) for name in list(query) if "sentinel_" in name
        }
        host, port = hosts[0]
        login = f"{login}@" if login else ""
        host = f"[{host}]" if ":" in host else host
        server = f"{plain}://{login}{host}:{port}/{database}" + (f"?{urlencode(query)}" if query else "")
        options = dict(parse_url(server))
        for name in ("host", "port", "connection_class"):
            options.pop(name, None)
        return cls(kind, server, hosts, service, plain == "rediss", options, sentinel)


def _service(path: list[str]) -> str:
    if not path:
        raise ValueError("name the Sentinels' service: redis+sentinel://host:26379/mymaster")
    return path.pop(0)


def _host(place: str, default_port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{place}")
    if not parts.hostname:
        raise ValueError(f"no host in {place!r}")
    return parts.hostname, parts.port or default_port


def without_password(url: str) -> str:
    """The URL fit for logs."""
    url = re.sub(r"(://[^:@/]*):[^@/]*@", r"\1:***@", url)
    return re.sub(r"(password=)[^&]*", r"\1***", url)
