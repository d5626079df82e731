"""`headrace gateway` as a process: what it says, where it listens, how it stops."""

import json
import resource
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from headrace.producers.gateway.server import raise_open_files

from ...support.processes import Running, running
from ...support.waiting import wait_until

pytestmark = [pytest.mark.serial, pytest.mark.xdist_group("gateway")]


def gateway_process(
    folder: Path, redis_url: str, *options: str, ends_well: bool = True
) -> AbstractContextManager[Running]:
    """`headrace gateway` on a free port, any warning of which is an error."""
    command = ("-W", "error", "-m", "headrace.cli", "gateway", "--port", "0", *options)
    return running(*command, "--redis", redis_url, log=folder / "gateway.log", ends_well=ends_well)


def url_of(gateway: Running) -> str:
    """Its address without `/v1`, once it says so."""
    wait_until(lambda: "gateway_starting" in gateway.said() or gateway.ended)
    assert not gateway.ended, gateway.said()
    events = [json.loads(line) for line in gateway.said().splitlines()]
    (url,) = [event["url"] for event in events if event["event"] == "gateway_starting"]
    return url.removesuffix("/v1")


def test_it_serves_metrics_beside_and_stops_with_status_0(stack_redis, tmp_path):
    options = ("--no-auth", "--metrics-port", "0")
    with gateway_process(tmp_path, stack_redis.url, *options) as gateway:
        url = url_of(gateway)
        assert wait_until(lambda: answers(f"{url}/healthz")) == {"ok": True}
        events = [json.loads(line) for line in gateway.said().splitlines()]
        assert "gateway_without_keys" in {event["event"] for event in events}
        (port,) = [event["port"] for event in events if event["event"] == "metrics_served"]
        metrics = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert 'headrace_gateway_requests_total{method="GET",route="/healthz",status="200"}' in metrics
        assert httpx.get(f"http://127.0.0.1:{port}/livez").json()["ok"]
    assert "Traceback" not in gateway.said()


def answers(url: str) -> object:
    try:
        return httpx.get(url).json()
    except httpx.TransportError:
        return None


@pytest.mark.parametrize("host", ["0.0.0.0", "example.com"])
def test_without_keys_it_listens_on_loopback_alone(cli, host):
    assert "only a loopback address" in cli("gateway", "--no-auth", "--host", host, status=2)


@pytest.mark.parametrize("fd", ["0", "99"])
def test_a_file_descriptor_that_is_no_listening_socket_is_said(cli, fd):
    assert f"--fd {fd}: not a TCP socket that listens" in cli("gateway", "--no-auth", "--fd", fd, status=2)


def test_a_port_that_is_taken_is_said(cli, shared_gateway):
    said = cli("gateway", "--no-auth", "--port", str(shared_gateway.port), status=2)
    assert "setting gateway_port: can't listen on 127.0.0.1:" in said


def test_it_may_open_as_many_files_as_the_system_lets_it():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard - 1, hard))
    try:
        assert raise_open_files() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
