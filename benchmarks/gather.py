"""Puts what the parts of gpu.sh left into one file.

python -m benchmarks.gather PARTS WHERE

PARTS is a folder with `<part>.status`, `<part>.log` and, where a part got that far, `<part>.json`.
"""

import json
import sys
from pathlib import Path

from .machine import machine, save


def gather(parts: Path) -> dict[str, object]:
    """Each part's exit status (124: its time was over), seconds, last line, and what it measured."""
    found: dict[str, object] = {}
    for status in sorted(parts.glob("*.status")):
        log, measured = status.with_suffix(".log"), status.with_suffix(".json")
        lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        found[status.stem] = json.loads(status.read_text()) | {
            "last_line": lines[-1] if lines else "",
            "measured": json.loads(measured.read_text()) if measured.exists() else None,
        }
    return {"benchmark": "gpu", "machine": machine(), "parts": found}


if __name__ == "__main__":
    print(save(gather(Path(sys.argv[1])), Path(sys.argv[2]), "gpu"))
