"""The Durable Streams protocol's own suite and client against the gateway, where Node and they are."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from headrace.schemas.redis.connection import connect

from ....support.durable_server import durable_server
from ....support.gateways import gateway
from ....support.processes import kill_engine_of
from ....support.waiting import WAIT_S, wait_until
from ..test_jobs import ASKED

NODE = shutil.which("node")
PACKAGES = Path(os.environ.get("NODE_PATH") or "nowhere")

pytestmark = [pytest.mark.slow, pytest.mark.serial, pytest.mark.skipif(NODE is None, reason="no Node")]

READING = (
    "Read Operations",
    "Long-Poll Operations",
    "HTTP Protocol should (return correct headers on GET|return empty body|read from offset)",
    "Browser Security Headers should include .* on (GET|HEAD|SSE|long-poll|error) responses",
    "Content-Type Validation should return stream content-type on GET",
    "HEAD Metadata should",
    "Offset Validation and Resumability",
    "Protocol Edge Cases should (preserve data|generate unique|reject .* offset|ignore unknown)",
    "Long-Poll Edge Cases",
    "Caching and ETag",
    "Read-Your-Writes Consistency",
    "SSE Mode (?!.*(base64|binary))",
    "JSON Mode should (?!.*(PUT|POST|reject))",
    "Stream Closure (HEAD with|Read Closed|Long-poll with|SSE with|Edge Cases offset-now)",
)
"""What the suite says of reading. The rest creates, appends, closes, forks, expires, deletes and subscribes,
or reads streams of bytes that are no text."""

TESTS = 102

SUITE = """
import { runConformanceTests } from "@durable-streams/server-conformance-tests"
runConformanceTests({ baseUrl: process.env.STREAMS_URL })
"""


READER = """
import { stream } from "@durable-streams/client"
const [url, live, form] = process.argv.slice(2)
const response = await stream({ url, live, offset: "-1" })
const pieces = form === "text" ? response.textStream() : response.jsonStream()
for await (const piece of pieces) process.stdout.write(JSON.stringify(piece) + "\\n")
process.stdout.write(JSON.stringify({ closed: response.streamClosed, offset: response.offset }) + "\\n")
"""


@pytest.fixture
def folder(tmp_path):
    """A folder from which Node imports the packages."""
    for package in ("server-conformance-tests", "client"):
        if not (PACKAGES / "@durable-streams" / package).is_dir():
            pytest.skip(f"NODE_PATH has no package @durable-streams/{package}")
    (tmp_path / "node_modules").symlink_to(PACKAGES)  # imports do not look at NODE_PATH
    return tmp_path


def test_the_read_half_passes_the_protocols_own_suite(folder, own_redis):
    (folder / "suite.test.mjs").write_text(SUITE)
    report = folder / "report.json"
    vitest = [NODE, str(PACKAGES / "vitest" / "vitest.mjs"), "run", "--root", str(folder)]
    # Some tests give a server two seconds for what takes it a few milliseconds, so each may be tried again.
    options = ["--reporter=json", f"--outputFile={report}", "--testTimeout=30000", "--retry=2"]
    chosen = ["--testNamePattern", f"^({'|'.join(READING)})"]
    with (
        connect(own_redis.url) as redis,
        gateway(own_redis.url, gateway_ping_s=1, gateway_cors_origins="https://example.com") as served,
        durable_server(redis, served.url) as url,
    ):
        ran = subprocess.run(
            [*vitest, *options, *chosen],
            env=os.environ | {"STREAMS_URL": url},
            capture_output=True,
            text=True,
            timeout=150,
        )
    assert report.exists(), ran.stderr
    (suite,) = json.loads(report.read_text())["testResults"]
    outcomes = suite["assertionResults"]
    failed = [each for each in outcomes if each["status"] == "failed"]
    assert not failed, "\n\n".join(f"{each['fullName']}: {each['failureMessages'][0]}" for each in failed)
    assert sum(each["status"] == "passed" for each in outcomes) == TESTS


@pytest.mark.xdist_group("gateway")
def test_the_protocols_own_client_reads_a_generation_whose_worker_is_killed(
    folder, worker, http, jobs, slow_steps
):
    (folder / "reader.mjs").write_text(READER)
    asked = ASKED | {"max_tokens": 600}
    whole = jobs.job(http.post("/v1/jobs", json=asked).json()["id"]).result(WAIT_S)
    with ExitStack() as running:
        with slow_steps():
            job = jobs.job(http.post("/v1/jobs", json=asked).json()["id"])
            readers = [
                running.enter_context(reader(folder, f"{http.base_url}/v1/jobs/{job.id}/{form}", live, form))
                for form in ("text", "chunks")
                for live in ("sse", "long-poll")
            ]
            seen = [[each.stdout.readline()] for each in readers]
            kill_engine_of(job, jobs)
            assert not job.status().state.terminal
        for lines, each in zip(seen, readers, strict=True):
            lines += each.stdout.readlines()
            assert each.wait(WAIT_S) == 0
    assert job.result(WAIT_S).token_ids == whole.token_ids
    for number, lines in enumerate(seen):
        *pieces, end = map(json.loads, lines)
        assert len(pieces) > 1
        assert end["closed"] is True
        if number < 2:
            assert "".join(pieces) == whole.text
        else:
            *chunks, last = pieces
            assert last["state"] == "succeeded"
            assert "".join(chunk["text"] for chunk in chunks) == whole.text
            assert [token for chunk in chunks for token in chunk["token_ids"]] == list(whole.token_ids)
    wait_until(jobs.workers)


@contextmanager
def reader(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A client in a process of its own, which prints what it reads."""
    started = subprocess.Popen(
        [NODE, str(folder / "reader.mjs"), *arguments], stdout=subprocess.PIPE, text=True
    )
    with started:
        try:
            yield started
        finally:
            started.kill()
