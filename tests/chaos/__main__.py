"""`python -m tests.chaos --minutes 25`: a long storm, and the table of faults survived."""

import argparse
import asyncio
import json
import random
import sys
import tempfile
from pathlib import Path

from .storm import storm


def main() -> int:
    """1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="chaos")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=None, help="repeats the schedule of an earlier run")
    parser.add_argument("--json", type=Path, default=None, help="write the table there too")
    parser.add_argument("--logs", type=Path, default=None, help="keep the hosts' logs and the schedule there")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = options.logs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        outcome = asyncio.run(storm(60 * options.minutes, seed, folder, lambda line: print(line, flush=True)))
    print(outcome.summary)
    if options.logs is not None:
        (options.logs / "schedule.txt").write_text("\n".join(outcome.ledger.history) + "\n")
    if options.json is not None:
        options.json.write_text(json.dumps(outcome.facts(), indent=2) + "\n")
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())
