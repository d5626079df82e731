"""Connecting to Redis, however it is run, and what its errors mean."""

from .address import Address, Kind, without_password
from .connect import (
    connect,
    connect_async,
    connect_subscriber,
    is_cluster,
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

__all__ = [
    "MIN_VERSION",
    "Address",
    "Kind",
    "broker_errors",
    "check_version",
    "connect",
    "connect_async",
    "connect_subscriber",
    "connection_lost",
    "is_cluster",
    "passing",
    "server_info",
    "server_info_async",
    "unavailable",
    "without_password",
]
