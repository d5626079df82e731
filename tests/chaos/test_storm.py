"""A minute of faults of every kind over two hosts: no job lost, no token repeated, skipped or changed."""

import pytest

from .storm import storm

SEED = 20_260
SECONDS = 40.0

pytestmark = [pytest.mark.serial, pytest.mark.timeout(300)]


async def test_nothing_is_lost_in_a_storm(tmp_path):
    outcome = await storm(SECONDS, SEED, tmp_path)
    print(outcome.summary)
    assert outcome.violations == []
    assert outcome.ledger.faults.total() >= 15
