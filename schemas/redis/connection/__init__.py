"""Connecting to one Redis server, to Sentinels or to a Cluster, and what Redis's errors mean."""

from .address import Address, Kind
from .connect import (
    address_of,
    connect,
    connect_async,
    connect_subscriber,
    is_cluster,
    not_a_url,
    server_info,
    server_info_async,
)
from .failures import (
    MIN_VERSION,
    broker_errors,
    check_version,
    connection_lost,
    passing,
    unavailable,
)
from .masking import shown_url, without_password

__all__ = [
    "MIN_VERSION",
    "Address",
    "Kind",
    "address_of",
    "broker_errors",
    "check_version",
    "connect",
    "connect_async",
    "connect_subscriber",
    "connection_lost",
    "is_cluster",
    "not_a_url",
    "passing",
    "server_info",
    "server_info_async",
    "shown_url",
    "unavailable",
    "without_password",
]
