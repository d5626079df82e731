"""A chord goes through whatever is killed in the middle of it."""

import time

import pytest
from celery import chord
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.serial,
    pytest.mark.xdist_group("celery"),  # they share an installation
    pytest.mark.filterwarnings("ignore:Call to deprecated setex"),  # Celery's result backend, with redis-py 8
]

PARTS = 30
FIXED = {"temperature": 0, "ignore_eos": True}
LENGTHS = [10 + 7 * number for number in range(PARTS)]  # so that they end one after the other


ASKED = [(f"Number {number} is", {"max_tokens": length, **FIXED}) for number, length in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def expected(installation):
    """The parts' texts when nothing is killed."""
    jobs = [installation.client.enqueue(prompt, model="demo", **fields) for prompt, fields in ASKED]
    return [job.result(timeout_s=60).text for job in jobs]


@pytest.mark.parametrize("victim", ["engine", "callbacks", "worker"])
def test_a_chords_body_runs_once_with_all_results_in_order(installation, expected, victim):
    generate, backend = installation.team.generate, installation.team.app.backend.client
    before = int(backend.get("joined") or 0)
    found = chord([generate.s(prompt, **fields) for prompt, fields in ASKED])(installation.team.join.s())

    parts = found.parent.results
    wait_until(parts[9].ready)
    assert not parts[-1].ready(), "it was over before anything was killed"
    if victim == "engine":
        installation.kill_engine()
    else:
        installation.kill(victim)
        installation.start_callbacks() if victim == "callbacks" else installation.start_worker()
    killed = time.monotonic()
    assert found.get(timeout=90) == expected
    print(f"{victim} killed when 10 of {PARTS} had ended: all done {time.monotonic() - killed:.1f} s later")
    wait_until(lambda: installation.to_relay == 0, 20)
    assert int(backend.get("joined")) == before + 1
