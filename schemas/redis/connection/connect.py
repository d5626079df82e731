"""Making connections: the one place that knows the protocol, the timeouts and the topologies."""

import random
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, cast

from redis import Connection, ConnectionPool, Redis, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException
from redis.sentinel import Sentinel

from ...errors import BadSetting
from .address import Address, Kind
from .masking import shown_url

if TYPE_CHECKING:
    from redis.asyncio import Redis as AsyncRedis
    from redis.cluster import RedisCluster

_OPTIONS: dict[str, Any] = {
    "protocol": 2,  # replies have one shape on every server and library version
    "socket_connect_timeout": 5.0,
    "socket_timeout": 15.0,
    "socket_keepalive": True,
    "health_check_interval": 15,
    "retry": None,  # retrying is decided where it is known to be safe
}


def connect(url: str, **options: Any) -> Redis:
    """Make a connection pool for the Redis at `url`, without sending anything yet.

    Raises:
        BadSetting: `url` isn't a Redis URL.
    """
    address, options = address_of(url), _OPTIONS | options
    match address.kind:
        case Kind.SERVER:
            kind: type[Any] = SSLConnection if address.tls else Connection
            if address.path:
                kind = UnixDomainSocketConnection
            return Redis.from_pool(ConnectionPool(kind, **_server_options(address, options)))
        case Kind.SENTINEL:
            sentinel = Sentinel(
                address.hosts, sentinel_kwargs=_sentinel_options(address, options), **_known(address, options)
            )
            primary: Redis = sentinel.master_for(address.service, redis_class=_Primary)
            return primary
        case Kind.CLUSTER:
            return cast("Redis", _LazyCluster(address, _known(address, options)))


def connect_async(url: str, **options: Any) -> "AsyncRedis":
    """`connect` for asyncio."""
    from redis import asyncio as aio

    address, options = address_of(url), _OPTIONS | options
    match address.kind:
        case Kind.SERVER:
            kind: type[Any] = aio.SSLConnection if address.tls else aio.Connection
            if address.path:
                kind = aio.UnixDomainSocketConnection
            pool = aio.ConnectionPool(kind, **_server_options(address, options))
            return aio.Redis.from_pool(pool)
        case Kind.SENTINEL:
            from redis.asyncio.sentinel import Sentinel as AsyncSentinel

            from .sentinel_async import AsyncPrimary

            sentinel = AsyncSentinel(
                address.hosts, sentinel_kwargs=_sentinel_options(address, options), **_known(address, options)
            )
            primary: AsyncRedis = sentinel.master_for(address.service, redis_class=AsyncPrimary)
            return primary
        case Kind.CLUSTER:
            from redis.asyncio.cluster import ClusterNode, RedisCluster

            nodes = [ClusterNode(host, port) for host, port in address.hosts]
            return cast("AsyncRedis", RedisCluster(startup_nodes=nodes, **_cluster_options(address, options)))


def connect_subscriber(url: str, **options: Any) -> "AsyncRedis":
    """Make a connection pool for Pub/Sub, for asyncio. In a Cluster, every node receives every message."""
    address = address_of(url)
    if address.kind is not Kind.CLUSTER:
        return connect_async(url, **options)
    from redis import asyncio as aio

    # Any node will do, and a different one for each client spreads the load.
    node = replace(address, hosts=(random.choice(address.hosts),))
    kind: type[Any] = aio.SSLConnection if address.tls else aio.Connection
    pool = aio.ConnectionPool(kind, **_server_options(node, _OPTIONS | options))
    return aio.Redis.from_pool(pool)


class _Primary(Redis):
    """A client of the primary that Sentinels name; closing it also closes the connections to them."""

    def close(self) -> None:
        """Close all connections; a `client()` closes only its own."""
        super().close()
        if self.auto_close_connection_pool:
            for sentinel in self.connection_pool.sentinel_manager.sentinels:  # type: ignore[attr-defined]
                sentinel.close()


class _LazyCluster:
    """A `RedisCluster` that is constructed at its first use, and again until that succeeds.

    redis-py's constructor asks the nodes for their slots, and raises other errors than its commands do.
    """

    def __init__(self, address: Address, options: dict[str, Any]) -> None:
        self._address, self._options = address, options
        self._lock = threading.Lock()
        self._made: RedisCluster | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cluster(), name)

    def _cluster(self) -> "RedisCluster":
        from redis.cluster import ClusterNode, RedisCluster

        with self._lock:
            if self._made is None:
                nodes = [ClusterNode(host, port) for host, port in self._address.hosts]
                try:
                    options = _cluster_options(self._address, self._options)
                    self._made = RedisCluster(startup_nodes=nodes, **options)
                except RedisClusterException as error:
                    raise RedisConnectionError(str(error)) from error
            return self._made

    def close(self) -> None:
        """Close its connections."""
        if self._made is not None:
            self._made.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_cluster(redis: object) -> bool:
    """Whether keys may be on different servers."""
    return isinstance(redis, _LazyCluster) or type(redis).__name__ == "RedisCluster"


def server_info(redis: Redis) -> dict[str, Any]:
    """The reply to INFO server, from the server or from any node."""
    if not is_cluster(redis):
        return redis.info("server")
    found: dict[str, Any] = redis.execute_command("INFO", "server", target_nodes="random")
    return found


async def server_info_async(redis: "AsyncRedis") -> dict[str, Any]:
    """`server_info` for asyncio."""
    if not is_cluster(redis):
        return await redis.info("server")
    found: dict[str, Any] = await redis.execute_command("INFO", "server", target_nodes="random")
    return found


def _server_options(address: Address, options: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments for connections to one server or socket."""
    if address.path:
        known = {name: value for name, value in options.items() if name != "socket_keepalive"}
        return known | address.options | {"path": address.path}
    host, port = address.hosts[0]
    return options | address.options | {"host": host, "port": port}


def _known(address: Address, options: dict[str, Any]) -> dict[str, Any]:
    known = options | address.options
    if address.tls:
        known["ssl"] = True
    return known


def _cluster_options(address: Address, options: dict[str, Any]) -> dict[str, Any]:
    known = _known(address, options)
    # A Cluster has no databases, and redis-py's own client for it decides what it repeats.
    for name in ("retry", "db"):
        known.pop(name, None)
    return known


def _sentinel_options(address: Address, options: dict[str, Any]) -> dict[str, Any]:
    known = {name: value for name, value in options.items() if name != "health_check_interval"}
    tls = {name: value for name, value in _known(address, {}).items() if name.startswith("ssl")}
    return known | tls | address.sentinel_options


def address_of(url: str, setting: str = "url") -> Address:
    """Parse the URL given by the setting or argument `setting`.

    Raises:
        BadSetting: it isn't a Redis URL.
    """
    try:
        return Address.parse(url)
    except ValueError as error:
        shown = shown_url(url) if isinstance(url, str) else url
        raise BadSetting(f"{setting} = {shown!r}: {not_a_url(error)}") from None


def not_a_url(reason: ValueError) -> str:
    """Say what is wrong with a Redis URL, and what one looks like."""
    return (
        f"is not a Redis URL: {reason}; write redis://user:password@host:6379/0, unix:///run/redis.sock, "
        "redis+sentinel://host:26379/service or redis+cluster://host:6379"
    )
