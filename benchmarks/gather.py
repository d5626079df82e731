"""Puts what the parts of gpu.sh left into one file.

python -m benchmarks.gather PARTS WHERE

PARTS is a folder with `<part>.status`, `<part>.log` and, where a part got that far, `<part>.json`.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path

from .machine import machine, save

_SUMMARY = re.compile(r"^(?:=+ )?(\d+ (?:passed|failed|skipped|error).*) in [\d.]+s", re.MULTILINE)
_COUNT = re.compile(r"(\d+) (passed|failed|skipped|error)")


def gather(parts: Path) -> dict[str, object]:
    """Each part's exit status (124: its time was over), seconds, last line, tests, and what it measured."""
    found: dict[str, object] = {}
    for status in sorted(parts.glob("*.status")):
        log, measured = status.with_suffix(".log"), status.with_suffix(".json")
        told = log.read_text(errors="replace").strip() if log.exists() else ""
        found[status.stem] = json.loads(status.read_text()) | {
            "last_line": told.rpartition("\n")[2],
            "tests": tests(told),
            "measured": json.loads(measured.read_text()) if measured.exists() else None,
        }
    return {"benchmark": "gpu", "machine": machine(), "parts": found}


def tests(told: str) -> dict[str, int]:
    """How many tests passed, failed and so on, by all of pytest's last lines in what a part told."""
    counts: Counter[str] = Counter()
    for summary in _SUMMARY.findall(told):
        for count, what in _COUNT.findall(summary):
            counts[what] += int(count)
    return dict(counts)


if __name__ == "__main__":
    print(save(gather(Path(sys.argv[1])), Path(sys.argv[2]), "gpu"))
