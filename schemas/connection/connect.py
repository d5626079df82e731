"""Connecting: one place for the protocol, the timeouts, and how Redis is run."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self, cast

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException
from redis.sentinel import Sentinel

from ..errors import BrokerUnavailable
from .address import Address, Kind, without_password

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
    """A connection pool to the Redis at `url`; nothing is sent yet.

    Raises:
        BrokerUnavailable: `url` is no Redis URL.
    """
    address, options = _address(url), _OPTIONS | options
    match address.kind:
        case Kind.SERVER:
            return Redis.from_url(url, **options)
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
    from redis.asyncio import Redis as AsyncRedis

    address, options = _address(url), _OPTIONS | options
    match address.kind:
        case Kind.SERVER:
            return AsyncRedis.from_url(url, **options)
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
    """A connection pool for Pub/Sub, for asyncio: in a Cluster every node has every message."""
    from redis.asyncio import Redis as AsyncRedis

    address = _address(url)
    if address.kind is not Kind.CLUSTER:
        return connect_async(url, **options)
    host, port = random.choice(address.hosts)
    return AsyncRedis.from_url(address.url, **(_OPTIONS | options | {"host": host, "port": port}))


class _Primary(Redis):
    """The primary that Sentinels name; the connections to them end with its own."""

    def close(self) -> None:
        """End all connections; of a `client()`, its own alone."""
        super().close()
        if self.auto_close_connection_pool:
            for sentinel in self.connection_pool.sentinel_manager.sentinels:  # type: ignore[attr-defined]
                sentinel.close()


class _LazyCluster:
    """A `RedisCluster` that is made at its first use, and then for as long as it takes.

    redis-py asks the nodes for their slots in the constructor, and raises errors of another family from
    there.
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
        """End its connections."""
        if self._made is not None:
            self._made.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_cluster(redis: object) -> bool:
    """Whether commands on several keys may meet several servers."""
    return isinstance(redis, _LazyCluster) or type(redis).__name__ == "RedisCluster"


def server_info(redis: Redis) -> dict[str, Any]:
    """INFO server of the server, or of any node."""
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


def _known(address: Address, options: dict[str, Any]) -> dict[str, Any]:
    known = options | address.options
    if address.tls:
        known["ssl"] = True
    return known


def _cluster_options(address: Address, options: dict[str, Any]) -> dict[str, Any]:
    known = _known(address, options)
    for name in ("retry", "db"):
        known.pop(name, None)
    return known


def _sentinel_options(address: Address, options: dict[str, Any]) -> dict[str, Any]:
    known = {name: value for name, value in options.items() if name != "health_check_interval"}
    tls = {name: value for name, value in _known(address, {}).items() if name.startswith("ssl")}
    return known | tls | address.sentinel_options


def _address(url: str) -> Address:
    with _bad_url(url):
        return Address.parse(url)


@contextmanager
def _bad_url(url: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise BrokerUnavailable(
            f"{without_password(url)!r} is not a Redis URL ({error}); write redis://host:6379/0, "
            "redis+sentinel://host:26379/service or redis+cluster://host:6379"
        ) from None
