"""When a failed attempt is made again."""

import random

import pytest

from headrace.workers.callbacks.webhooks.schedule import Schedule


def none() -> float:
    return 0.0


def test_the_delays_come_in_their_order_and_then_it_is_given_up():
    schedule = Schedule(delays_s=(1, 10, 100))
    assert [schedule.after(attempts, None, none) for attempts in (1, 2, 3, 4, 99)] == [1, 10, 100, None, None]


def test_by_default_a_receiver_may_be_away_for_three_days():
    schedule, attempts, waited_s = Schedule(), 0, 0.0
    while (delay_s := schedule.after(attempts := attempts + 1, None, none)) is not None:
        waited_s += delay_s
    assert attempts == 10
    assert 3 * 86_400 < waited_s < 4 * 86_400


def test_jitter_adds_up_to_a_fifth_and_takes_nothing_away():
    source = random.Random(0)
    delays_s = [Schedule(delays_s=(100,)).after(1, None, source.random) for _ in range(1000)]
    assert all(100 <= delay_s < 120 for delay_s in delays_s)
    assert max(delays_s) - min(delays_s) > 19


def test_a_receiver_can_ask_for_more_time_but_not_for_less():
    schedule = Schedule(delays_s=(60,))
    assert schedule.after(1, 300.0, none) == 300
    assert schedule.after(1, 5.0, none) == 60
    assert schedule.after(2, 300.0, none) is None


def test_without_delays_there_is_one_attempt():
    assert Schedule(delays_s=()).after(1, None, none) is None


def test_a_negative_delay_is_refused():
    with pytest.raises(ValueError, match="-1"):
        Schedule(delays_s=(5, -1))
