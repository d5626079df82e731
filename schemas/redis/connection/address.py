"""Redis URLs: one server, a Sentinel's service, or a Cluster.

    redis://[user:password@]host:port/db            rediss:// with TLS; unix:///path?db=0
    redis+sentinel://[user:password@]host:port[,host:port...]/service[/db]
    redis+cluster://[user:password@]host:port[,host:port...]

Several hosts are Sentinels, or the Cluster nodes to start from. `rediss+sentinel://` and `rediss+cluster://`
use TLS. Options may follow `?`: `db=`, `username=`, `password=`, `client_name=`; with TLS `ssl_ca_certs=`,
`ssl_certfile=`, `ssl_keyfile=`, `ssl_cert_reqs=` and some more; `sentinel_username=` and `sentinel_password=`
are for the Sentinels themselves. A URL is often shared with other programs, so redis-py's other options are
accepted but ignored: headrace chooses the protocol, decoding, timeouts, retries and the pool itself.

URLs are parsed only here, and no error quotes any part of one, since the unreadable part may belong to a
password.
"""

import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import unquote, unquote_plus

_SCHEME = re.compile(r"(rediss?)(?:\+(sentinel|cluster))?|(unix)")
_PARTS = re.compile(r"(?:([^/?#]*)@)?([^/?#]*)([^?#]*)(?:\?([^#]*))?")
"""Login, hosts, path and query. The standard library refuses several hosts with one in brackets."""

_PLACE = re.compile(r"(?:\[([0-9A-Za-z:.%]+)\]|([^:\[\]\s]*))(?::(\d{1,5}))?")
_OPTION = re.compile(r"[a-z_]{1,40}")

ESCAPES = "percent-encode the password: / is %2F, # is %23, ? is %3F, @ is %40, % is %25"

_UNUSED = frozenset(
    {
        *("protocol", "legacy_responses", "decode_responses", "encoding", "encoding_errors", "parser_class"),
        *("max_connections", "timeout", "single_connection_client", "health_check_interval"),
        *("retry", "retry_on_timeout", "retry_on_error", "socket_timeout", "socket_connect_timeout"),
        *("socket_keepalive", "socket_read_size", "socket_type", "lib_name", "lib_version"),
    }
)
"""redis-py's options that a URL may have for the sake of other programs."""


class Kind(Enum):
    """Redis's topology."""

    SERVER = "server"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_DEFAULT_PORT = {Kind.SERVER: 6379, Kind.SENTINEL: 26379, Kind.CLUSTER: 6379}


@dataclass(frozen=True, slots=True)
class Address:
    """Where Redis is.

    Attributes:
        kind: the topology.
        hosts: the server, the Sentinels, or nodes of the Cluster; empty for a socket on this machine.
        path: the path of that socket.
        service: the Sentinels' name for the primary.
        tls: whether connections are encrypted.
        options: redis-py's options for a connection, including the login and the database.
        sentinel_options: redis-py's options for a connection to a Sentinel.
    """

    kind: Kind
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    tls: bool = False
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Parse a URL.

        Raises:
            ValueError: it isn't a Redis URL; the message says what is wrong without quoting it.
        """
        if not isinstance(url, str):
            raise ValueError("it is not a string; is a variable unset?")  # noqa: TRY004 - a wrong setting
        scheme, separator, rest = url.partition("://")
        match = _SCHEME.fullmatch(scheme)
        if not separator or match is None:
            raise ValueError("it must begin with redis://, rediss:// or unix://")
        login = rest.rpartition("@")[0]
        try:
            return cls._read(rest, match[1] == "rediss", match[2], bool(match[3]))
        except ValueError:
            # Most likely an unescaped password, which any of these cut short; the error must not quote its
            # rest.
            if any(end in login for end in "/?#"):
                raise ValueError(ESCAPES) from None
            raise

    @classmethod
    def _read(cls, rest: str, tls: bool, topology: str | None, socket: bool) -> "Address":
        parts = _PARTS.fullmatch(rest)
        if parts is None:
            raise ValueError("everything after # would be ignored; write # as %23")
        login, places, path, query = parts.groups("")
        kind = Kind(topology) if topology else Kind.SERVER
        options, sentinel = _options(query, kind, tls)
        user, _, password = login.partition(":")
        for name, text in (("username", user), ("password", password)):
            if text:
                options[name] = unquote(text)
        if socket:
            if places or len(path) < 2:
                raise ValueError("a socket's path is absolute: unix:///run/redis.sock")
            return cls(kind, path=unquote(path), options=options)
        hosts = tuple(_host(place, kind) for place in places.split(","))
        if "@" in path:
            raise ValueError("write @ in it as %40")
        if kind is Kind.SERVER and len(hosts) > 1:
            raise ValueError("several hosts need redis+sentinel:// or redis+cluster://")
        names = [unquote(part) for part in path.split("/") if part]
        service = _service(names) if kind is Kind.SENTINEL else ""
        if len(names) > 1 or not all(name.isdecimal() for name in names):
            raise ValueError("the database must be a number")
        # The option `db` comes before the path, as in redis-py.
        database = options.setdefault("db", int(names[0]) if names else 0)
        if kind is Kind.CLUSTER and (database or any(map(int, names))):
            raise ValueError("a Cluster has no databases")
        return cls(kind, hosts, "", service, tls, options, sentinel)


def _service(names: list[str]) -> str:
    if not names:
        raise ValueError("name the Sentinels' service: redis+sentinel://host:26379/mymaster")
    return names.pop(0)


def _host(place: str, kind: Kind) -> tuple[str, int]:
    match = _PLACE.fullmatch(place)
    if match is None:
        raise ValueError("it needs a host and a numeric port; a password ends with @")
    host = unquote(match[1] or match[2]).lower()
    if not host and kind is not Kind.SERVER:
        raise ValueError("no host is named")
    port = _DEFAULT_PORT[kind] if match[3] is None else int(match[3])
    if not 0 < port < 2**16:
        raise ValueError("the port must be 1 to 65535")
    return host or "localhost", port


def _options(query: str, kind: Kind, tls: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of connections, and those of connections to Sentinels."""
    options: dict[str, Any] = {}
    sentinel: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        name, _, text = part.partition("=")
        if name in _UNUSED:
            continue
        if kind is Kind.SENTINEL and name in {"sentinel_username", "sentinel_password"}:
            sentinel[name.removeprefix("sentinel_")] = unquote_plus(text)
            continue
        if name in _TLS_READERS and not tls:
            raise ValueError(f"{name} needs TLS: rediss://")
        read = _READERS.get(name) or _TLS_READERS.get(name)
        if read is None:
            secret = "password=" in query  # an unescaped & in a password would end it
            raise ValueError(
                f"headrace has no option {name}"
                if _OPTION.fullmatch(name) and not secret
                else "headrace doesn't have one of its options"
            )
        try:
            options[name] = read(unquote_plus(text))
        except ValueError as error:
            raise ValueError(f"option {name} {error}") from None
    return options, sentinel


def _database(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("must be a number")
    return int(text)


def _client_name(text: str) -> str:
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError("must be letters without spaces")
    return text


def _bool(text: str) -> bool:
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in known:
        raise ValueError("must be true or false")
    return known[text.lower()]


def _certificates(text: str) -> str:
    """Translate Celery's CERT_REQUIRED to redis-py's required."""
    word = text.lower().removeprefix("cert_")
    if word not in {"none", "optional", "required"}:
        raise ValueError("must be none, optional or required")
    return word


def _tls_version(text: str) -> ssl.TLSVersion:
    known = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
    known |= {str(int(version)): version for version in known.values()}
    if text not in known:
        raise ValueError("must be 1.2 or 1.3")
    return known[text]


_READERS: Mapping[str, Callable[[str], Any]] = {
    "db": _database,
    "username": str,
    "password": str,
    "client_name": _client_name,
}
_TLS_READERS: Mapping[str, Callable[[str], Any]] = {
    **dict.fromkeys(("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_certfile", "ssl_keyfile"), str),
    **dict.fromkeys(("ssl_password", "ssl_ciphers"), str),
    "ssl_cert_reqs": _certificates,
    "ssl_check_hostname": _bool,
    "ssl_min_version": _tls_version,
}
