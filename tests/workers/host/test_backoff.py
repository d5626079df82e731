from headrace.workers.host.backoff import RestartBackoff, RestartPolicy

POLICY = RestartPolicy(first_s=1, most_s=60, stable_s=60, loop_deaths=5, loop_window_s=300)


def test_waits_double_from_death_to_death() -> None:
    backoff = RestartBackoff(POLICY)
    assert [backoff.died(now, lived_s=0.1) for now in (0, 1, 3, 7)] == [1, 2, 4, 8]


def test_a_stable_life_starts_over() -> None:
    backoff = RestartBackoff(POLICY)
    waits = [backoff.died(now, lived_s) for now, lived_s in ((0, 1), (2, 1), (1000, 60), (1061, 1))]
    assert waits == [1, 2, 1, 2]


def test_a_crash_loop_waits_the_longest() -> None:
    backoff = RestartBackoff(POLICY)
    waits = [backoff.died(now, lived_s=0.1) for now in range(5)]
    assert waits == [1, 2, 4, 8, 60]
    assert backoff.crash_looping(4)


def test_deaths_far_apart_are_no_crash_loop_but_their_waits_have_a_limit() -> None:
    backoff = RestartBackoff(POLICY)
    waits = [backoff.died(now * 100.0, lived_s=30) for now in range(9)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert not backoff.crash_looping(800.0)


def test_a_crash_loop_is_over_when_its_deaths_are_long_past() -> None:
    backoff = RestartBackoff(POLICY)
    for now in range(5):
        backoff.died(now, lived_s=0.1)
    assert not backoff.crash_looping(302.0)
