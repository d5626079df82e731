"""What `headrace doctor` looks at: Redis's settings, the queue's state, this machine."""

import importlib.metadata
import importlib.util
import json
import math
import platform
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from redis import Redis
from redis.exceptions import NoPermissionError, RedisError

from ...schemas import keys
from ...schemas.celery_task import read_app
from ...schemas.errors import BrokerUnavailable
from ...schemas.job import JobClass
from ...schemas.keys import Tag
from ...schemas.presence import present, serves
from ...schemas.redaction import shown_name
from ...schemas.redis.call import text
from ...schemas.redis.connection import (
    broker_errors,
    check_version,
    connect,
    connection_lost,
    is_cluster,
    server_info,
)
from ...schemas.settings.queue import QueueSettings
from .findings import Finding, Verdict, fine, judge
from .rights import denied_commands
from .waiting_queues import what_waits

PINGS = 50
SLOW_MS, TOO_SLOW_MS = 5.0, 50.0
LAPSED_S = 60.0
"""If a lease lapsed this long ago and is still there, nobody does the upkeep."""

OUTBOX_S = 60.0
"""If an outbox entry has waited this long, nobody handles it."""

LOOKED_AT = 64
"""Number of outbox entries whose tasks are checked."""

SILENT_S = 60.0
"""A worker that has been silent for this long is gone, even if it is still listed."""

HEADROOM = 0.2
"""Share of maxmemory that should be free; with less, jobs may soon be refused."""


def examine(url: str, settings: QueueSettings, *, machine: bool = True) -> Iterator[Finding]:
    """Check everything, starting with what everything else depends on."""
    if machine:
        yield from _machine()
    try:
        # Around everything: each check asks by itself, and the connection may break at any of them.
        with connect(url) as redis, broker_errors():
            yield from _server(redis)
            if not is_cluster(redis):  # in a Cluster, each node has its own
                yield from _settings(redis)
                yield from _latency(redis)
            yield _rights(redis, settings.namespace)
            try:
                yield from _queue(redis, settings)
            except BrokerUnavailable as error:
                if not isinstance(error.__cause__, NoPermissionError):
                    raise
                yield fine("queue", "not checked: this user lacks the rights, which producers don't need")
    except BrokerUnavailable as error:
        away = "start Redis, or name it with --redis or HEADRACE_REDIS_URL"
        refused = "Redis is there but refuses: fix what it says, then run doctor again"
        yield Finding(
            check="redis",
            verdict=Verdict.FAIL,
            found=str(error),
            advice=away if connection_lost(error) else refused,
        )


def _machine() -> Iterator[Finding]:
    yield fine("python", platform.python_version())
    for package in ("headrace", "redis", "celery", "torch", "transformers"):
        try:
            yield fine(package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield fine(package, "not installed (only a worker needs it)")
    if importlib.util.find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            yield fine("gpu", ", ".join(map(torch.cuda.get_device_name, range(torch.cuda.device_count()))))
        else:
            yield fine("gpu", "none that torch can use; workers run on the CPU")
            compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
            yield Finding(
                check="compiler",
                verdict=Verdict.OK if compiler else Verdict.WARN,
                found=compiler or "none",
                advice="" if compiler else "install g++: compiled CPU kernels are several times as fast",
            )


def _server(redis: Redis) -> Iterator[Finding]:
    with broker_errors():
        info = server_info(redis)
    try:
        check_version(info)
    except BrokerUnavailable as error:
        yield Finding(check="version", verdict=Verdict.FAIL, found=str(error), advice="upgrade Redis")
    else:
        yield fine("version", f"Redis {info['redis_version']}, mode {info.get('redis_mode', '?')}")


def _settings(redis: Redis) -> Iterator[Finding]:
    info = redis.info()
    asked, refused = _config(redis)
    if refused:
        yield Finding(
            check="config",
            verdict=Verdict.WARN,
            found=f"CONFIG GET is refused ({refused})",
            advice="check maxmemory-policy, appendfsync and the Pub/Sub buffers by hand",
        )
    policy = asked.get("maxmemory-policy") or str(info.get("maxmemory_policy", "unknown"))
    yield judge(
        "eviction",
        policy,
        policy == "noeviction",
        Verdict.FAIL,
        "CONFIG SET maxmemory-policy noeviction: any other policy deletes jobs when memory is short",
    )
    yield from _memory(info)
    yield from _persistence(info, asked)
    replicas = int(info.get("connected_slaves", 0))
    yield fine("replicas", f"{replicas}" + ("" if replicas else ": jobs are lost with this machine's disk"))
    clients, most = int(info.get("connected_clients", 0)), int(asked.get("maxclients") or 0)
    if most:
        yield judge("clients", f"{clients} of {most}", clients < 0.8 * most, Verdict.WARN, "raise maxclients")
    if asked.get("timeout", "0") != "0":
        yield Finding(
            check="timeout",
            verdict=Verdict.WARN,
            found=f"{asked['timeout']} s",
            advice="CONFIG SET timeout 0: Redis disconnects idle clients, which then reconnect",
        )


def _memory(info: dict[str, Any]) -> Iterator[Finding]:
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if not most:
        yield Finding(
            check="memory",
            verdict=Verdict.WARN,
            found=f"{used / 2**20:.0f} MiB used, no maxmemory",
            advice="CONFIG SET maxmemory below the machine's memory: new jobs are then refused in time",
        )
        return
    free = 1 - used / most
    yield judge(
        "memory",
        f"{used / 2**20:.0f} of {most / 2**20:.0f} MiB used",
        free >= HEADROOM,
        Verdict.FAIL if free < HEADROOM / 4 else Verdict.WARN,
        "raise maxmemory, or shorten retention_s: at the limit new jobs are refused",
    )


def _persistence(info: dict[str, Any], asked: dict[str, str]) -> Iterator[Finding]:
    if not int(info.get("aof_enabled", 0)):
        snapshots = "no AOF"
        if "save" in asked:
            snapshots = "snapshots only" if asked["save"] else "nothing is written to disk"
        yield Finding(
            check="persistence",
            verdict=Verdict.FAIL,
            found=snapshots,
            advice="CONFIG SET appendonly yes: without it a restart loses accepted jobs",
        )
    else:
        sync = asked.get("appendfsync", "unknown")
        yield judge(
            "persistence",
            f"AOF, fsync {sync}",
            sync != "no",
            Verdict.WARN,
            "CONFIG SET appendfsync everysec: without fsync, a power cut may lose half a minute",
        )
    for name in ("aof_last_write_status", "rdb_last_bgsave_status"):
        if info.get(name, "ok") != "ok":
            yield Finding(
                check="persistence",
                verdict=Verdict.FAIL,
                found=f"{name}: {info[name]}",
                advice="see Redis's log: its disk is full or not writable",
            )


def _latency(redis: Redis) -> Iterator[Finding]:
    times = []
    for _ in range(PINGS):
        started = time.perf_counter()
        redis.ping()
        times.append(1000 * (time.perf_counter() - started))
    times.sort()
    # The last but one of 50 is the bound for 98 %: a single hiccup says little.
    median, worst = times[PINGS // 2], times[-2]
    found = f"PING {median:.2f} ms, 98 % within {worst:.2f} ms"
    if median > TOO_SLOW_MS:
        yield Finding(check="latency", verdict=Verdict.FAIL, found=found, advice="move Redis closer")
    else:
        yield judge(
            "latency",
            found,
            median <= SLOW_MS,
            Verdict.WARN,
            "every flush of a worker waits for it: move Redis closer, or look for slow commands",
        )
    seconds, microseconds = redis.time()
    skew = time.time() - (seconds + microseconds / 1e6)
    yield fine("clock", f"{skew:+.1f} s off Redis's clock (the queue only uses Redis's)")


def _rights(redis: Redis, namespace: str) -> Finding:
    try:
        denied = denied_commands(redis, namespace)
    except BrokerUnavailable as error:
        advice = "fix what Redis says; this user's rights could not be tested"
        return Finding(check="rights", verdict=Verdict.WARN, found=str(error), advice=advice)
    found = f"refused: {' '.join(denied)}" if denied else "scripts and all their commands"
    return judge(
        "rights", found, not denied, Verdict.FAIL, "headrace acl prints the rights that this user needs"
    )


def _queue(redis: Redis, settings: QueueSettings) -> Iterator[Finding]:
    with broker_errors():
        models = sorted(text(name) for name in redis.hkeys(keys.models(settings.namespace)))
        now_ms = int(server_info(redis)["server_time_usec"]) // 1000
        for model in models:
            tags = [Tag(model, partition, settings.namespace) for partition in range(settings.partitions)]
            yield from _model(redis, model, tags, now_ms)
    if not models:
        yield fine("models", "no worker has served a model here yet")


def _model(redis: Redis, model: str, tags: list[Tag], now_ms: int) -> Iterator[Finding]:
    # The largest, and not the sum: a worker is listed in each partition.
    workers = max(redis.zcount(tag.workers, now_ms - 1000 * SILENT_S, "+inf") for tag in tags)
    waiting = any(_has_work(redis, tag, now_ms) for tag in tags)
    lapsed = sum(redis.zcount(tag.leases, "-inf", now_ms - 1000 * LAPSED_S) for tag in tags)
    dead = sum(redis.xlen(tag.dead) for tag in tags)
    outbox = sum(redis.xlen(tag.outbox) for tag in tags)
    advice = f"jobs are waiting and no worker serves them: headrace worker --model {model}"
    yield judge(f"{model}: workers", f"{workers}", workers or not waiting, Verdict.FAIL, advice)
    if workers:
        yield from what_waits(redis, model, tags, now_ms)
    # A worker is listed in every partition, so one of them is enough.
    served = _served(redis, tags[0], now_ms)
    advice = "they would produce different tokens: keep one of them under this name and rename the other"
    found = ", ".join(f"{name} by {count}" for name, count in sorted(served.items()))
    yield judge(f"{model}: fingerprints", found or "none", len(served) < 2, Verdict.WARN, advice)
    advice = "no process does the upkeep: start a worker for this model"
    yield judge(f"{model}: leases", f"{lapsed} lapsed long ago", not lapsed, Verdict.FAIL, advice)
    advice = "headrace dead list"
    yield judge(f"{model}: dead letters", f"{dead}", not dead, Verdict.WARN, advice)
    late = any(_oldest_ms(redis, tag) < now_ms - 1000 * OUTBOX_S for tag in tags)
    advice = "webhooks or Celery tasks are waiting: start headrace callbacks (one per --app), or one more"
    found = f"{outbox} to relay"
    if outbox and (missing := _without_callbacks(redis, tags)):
        found += f", and {missing}"
        advice = "start headrace callbacks with --app module:app, the app that sent the tasks"
        late = True
    yield judge(f"{model}: outbox", found, not late, Verdict.FAIL, advice)


def _without_callbacks(redis: Redis, tags: list[Tag]) -> str:
    """The apps whose callbacks the oldest entries need, but that have none alive."""
    living = present(redis.time(), redis.hgetall(keys.callbacks(tags[0].namespace)))  # type: ignore[arg-type]
    if not living:
        return "no callbacks are alive"
    apps = {app for tag in tags for app in _apps(redis, tag) if not serves(living, app)}
    names = ", ".join(sorted(repr(shown_name(app or "")) for app in apps))
    return names and f"no callbacks of the Celery app {names} are alive"


def _apps(redis: Redis, tag: Tag) -> Iterator[str | None]:
    oldest: Any = redis.xrange(tag.outbox, count=LOOKED_AT)
    for _, fields in oldest:
        # Only the spec knows the app; the entry names the job.
        spec: Any = redis.hget(tag.job(text(fields.get(b"job", b""))), "spec")
        try:
            part = json.loads(spec or "{}").get("celery")
            yield read_app(part) if part else None
        except (ValueError, AttributeError):  # damaged records are left to the callbacks
            continue


def _served(redis: Redis, tag: Tag, now_ms: int) -> "Counter[str]":
    """How many workers serve each model under one name, by fingerprint."""
    living: Any = redis.zrangebyscore(tag.workers, now_ms - 1000 * SILENT_S, "+inf")
    said = [redis.hget(tag.worker(text(name)), "fingerprint") for name in living]
    return Counter(text(fingerprint) for fingerprint in said if fingerprint)


def _oldest_ms(redis: Redis, tag: Tag) -> float:
    """When the oldest entry of the outbox was written."""
    oldest: Any = redis.xrange(tag.outbox, count=1)
    return int(oldest[0][0].partition(b"-")[0]) if oldest else math.inf


def _has_work(redis: Redis, tag: Tag, now_ms: int) -> bool:
    """Whether any job waits for a worker: never run, interrupted, held back, due, or left running."""
    some_only: Any = redis.zrange(tag.readers, 0, -1)
    return bool(
        redis.zcard(tag.leases)
        or redis.scard(tag.parked)
        or redis.zcount(tag.delayed, "-inf", now_ms)
        or any(redis.zcard(tag.backlog(job_class)) for job_class in JobClass)
        or any(
            redis.xlen(tag.retry(readers)) or redis.xlen(tag.suspects(readers))
            for readers in (*JobClass, *map(text, some_only))
        )
    )


def _config(redis: Redis) -> tuple[dict[str, str], str]:
    """The reply to CONFIG GET, or why there is none: managed Redis often refuses it."""
    asked: dict[str, str] = {}
    # One by one: several names in one call need Redis 7.
    for name in ("maxmemory-policy", "appendfsync", "save", "maxclients", "timeout"):
        try:
            found = redis.config_get(name)
        except RedisError as error:
            return asked, str(error)
        asked |= {str(key): str(value) for key, value in found.items()}
    return asked, ""
