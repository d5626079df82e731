"""Times and durations written for people; programs read `--json`."""

import time
from datetime import datetime

_SCALES = ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))


def duration(seconds: float) -> str:
    """A duration for people: `0.25 s`, `12 s`, `4 min 10 s`, `3 h 5 min`, `2 d 4 h`."""
    if seconds < 10:
        return f"{seconds:.2g} s" if seconds else "0 s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    size, unit, smaller, its_unit = next(scale for scale in _SCALES if whole >= scale[0])
    rest = whole % size // smaller
    return f"{whole // size} {unit}" + (f" {rest} {its_unit}" if rest else "")


def moment(at_ms: int, now_ms: int | None = None) -> str:
    """A local time and how long ago it was: `2026-01-31 12:00:00 +0100 (5 min ago)`."""
    now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    when = datetime.fromtimestamp(at_ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    away_s = (now_ms - at_ms) / 1000
    return f"{when} ({duration(away_s)} ago)" if away_s >= 0 else f"{when} (in {duration(-away_s)})"


def facts(*rows: tuple[str, object]) -> str:
    """Names and values, one per line; values that are None or empty are left out."""
    return "\n".join(f"{name:<12} {value}" for name, value in rows if value not in (None, "", {}))
