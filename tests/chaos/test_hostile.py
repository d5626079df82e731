"""What counts as noticing hostile tenants."""

import pytest

from .hostile import hostile_storm
from .hostile_report import Outcome, Share, Window
from .innocents import Felt, Gap, within


def window(kind: str, silence_s: float) -> Window:
    return Window(kind, 0.0, 1.0, Felt(silence_s, None))


def test_a_wait_counts_in_the_window_in_which_it_falls_and_for_as_long():
    gaps = [Gap(0.0, 1.0), Gap(3.5, 10.0)]
    assert within(gaps, 0.5, 4.0) == [0.5, 0.5]
    assert within(gaps, 1.5, 3.0) == []


def test_twice_the_silence_is_felt_and_one_bad_window_of_three_is_not():
    alone = [window("", 0.2), window("", 0.2), window("", 9.0)]
    once = Outcome(
        True, windows=[*alone, window("floods", 5.0), window("floods", 0.3), window("floods", 0.3)]
    )
    assert not once.is_felt("floods")
    always = Outcome(True, windows=[*alone, window("floods", 0.5)])
    assert always.is_felt("floods")
    assert always.broken == ["floods: a silence of 0.50 s where without it is 0.20 s"]
    assert Outcome(False, windows=always.windows).broken == []


def test_silences_below_what_a_stream_is_published_by_are_none():
    assert not Outcome(True, windows=[window("", 0.01), window("floods", 0.15)]).is_felt("floods")


def test_a_tenant_off_its_share_by_more_than_a_tenth_is_named_if_enough_was_served():
    fair, greedy = Share("ada", 2, 19_500), Share("mallory", 1, 12_500)
    outcome = Outcome(True, windows=[window("", 0.1)], shares=[fair, greedy])
    assert outcome.broken == ["mallory was served 12500 tokens, 1.17 times its share"]
    few = Outcome(True, windows=[window("", 0.1)], shares=[Share("ada", 1, 10), Share("mallory", 1, 90)])
    assert few.broken == []


@pytest.mark.serial
@pytest.mark.slow  # `make chaos` runs a longer one too
@pytest.mark.timeout(400)
async def test_hostile_tenants_end_no_engine_and_change_nobodys_tokens(tmp_path):
    outcome = await hostile_storm(15.0, tmp_path, compared=False)
    print(outcome.summary)
    assert outcome.broken == []
    assert outcome.jobs > 0
