"""`headrace doctor` on a Redis with good and with bad settings."""

import json
import subprocess
import sys

from redis import Redis

from headrace.schemas import keys
from headrace.schemas.connection import connect


def examine(url: str, *, status: int) -> dict[str, dict[str, str]]:
    command = [sys.executable, "-m", "headrace.cli", "doctor", "--json", "--redis", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert done.returncode == status, done.stderr
    return {finding["check"]: finding for finding in json.loads(done.stdout)}


def test_a_redis_as_headrace_starts_it_is_fine(redis_url: str) -> None:
    found = examine(redis_url, status=0)
    assert {found[check]["verdict"] for check in ("version", "eviction", "persistence", "latency")} == {"ok"}
    assert found["headrace"]["found"]


def test_settings_that_lose_jobs_are_failures_with_the_command_that_mends_them(own_redis) -> None:
    with connect(own_redis.url) as redis:
        redis.config_set("maxmemory-policy", "allkeys-lru")
        redis.config_set("appendonly", "no")
        redis.config_set("maxmemory", redis.info("memory")["used_memory"] + 10_000)
        redis.config_set("timeout", 60)
    found = examine(own_redis.url, status=1)
    assert {found[check]["verdict"] for check in ("eviction", "persistence", "memory")} == {"fail"}
    assert found["eviction"]["advice"].startswith("CONFIG SET maxmemory-policy noeviction")
    assert found["timeout"]["verdict"] == "warn"


def test_jobs_that_nobody_serves_are_a_failure(redis_url: str, redis: Redis) -> None:
    redis.hset(keys.models(), "demo", "{}")
    redis.zadd(keys.Tag("demo").backlog("standard"), {"default": 0})
    found = examine(redis_url, status=1)
    assert "headrace worker --model demo" in found["demo: workers"]["advice"]


def test_a_redis_that_does_not_answer_is_said_in_one_line() -> None:
    found = examine("redis://127.0.0.1:1/0", status=1)
    assert found["redis"]["verdict"] == "fail"


def test_a_user_who_may_not_read_the_settings_is_told_what_could_not_be_seen(own_redis) -> None:
    with connect(own_redis.url) as redis:
        redis.execute_command("ACL", "SETUSER", "few", "on", ">secret", "~*", "&*", "+@all", "-config")
    found = examine(own_redis.url.replace("://", "://few:secret@"), status=0)
    assert found["config"]["verdict"] == "warn"
