"""What keeps happening is said seldom."""

from headrace.telemetry import seldom


def test_what_keeps_happening_is_said_at_once_and_then_ever_more_seldom(monkeypatch) -> None:
    now = 100.0
    monkeypatch.setattr(seldom.time, "monotonic", lambda: now)
    away, said = seldom.Seldom(), []
    for _ in range(3600):
        if away.due("Redis is away"):
            said.append(now - 100)
        now += 1
    assert said == [0, 5, 15, 35, 75, 155, 315, 635, 1235, 1835, 2435, 3035]
    assert away.due("Redis refuses")
    away.over()
    assert away.due("Redis refuses")
