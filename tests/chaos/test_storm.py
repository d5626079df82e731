"""Faults of every kind over two hosts: no job lost, no token repeated, skipped or changed."""

import asyncio
import signal

import pytest

from headrace import AsyncClient

from .fleet import LEASE_S, Fleet
from .load import SPECS
from .storm import storm

SEED = 20_260
SECONDS = 15.0

pytestmark = [pytest.mark.serial, pytest.mark.timeout(300)]


@pytest.mark.slow  # `make chaos` runs a long one too
async def test_nothing_is_lost_in_a_storm(tmp_path):
    outcome = await storm(SECONDS, SEED, tmp_path)
    print(outcome.summary)
    assert outcome.violations == []
    assert outcome.ledger.faults.total() >= 8


async def test_a_stall_of_redis_longer_than_a_lease_costs_no_job_an_attempt(tmp_path, eventually):
    with Fleet(tmp_path) as fleet:
        await eventually(lambda: fleet.all_ready)
        async with AsyncClient(fleet.redis.url) as client:
            jobs = [await client.enqueue(**SPECS[6]) for _ in range(12)]
            await eventually(lambda: len(fleet.running_jobs(None)) == 12)
            fleet.redis.kill(signal.SIGSTOP)
            await asyncio.sleep(2 * LEASE_S)
            fleet.redis.kill(signal.SIGCONT)
            results = [await job.result(timeout_s=60) for job in jobs]
    assert len({result.worker for result in results}) > 1
    assert {result.attempts for result in results} == {0}
