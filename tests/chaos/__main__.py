"""`python -m tests.chaos --minutes 25`: a long storm, and the table of faults survived.

With `--hostile` the storm is one of hostile tenants, and the table what the others noticed of them. With
`--forms 300` it lasts until 300 answers that must have a form have been streamed through gateways.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from .forms_storm import Outcome as FormsOutcome
from .forms_storm import forms_storm
from .hostile import hostile_storm
from .hostile_report import Outcome as HostileOutcome
from .storm import Outcome, storm

JUDGED_FROM_MINUTES = 5.0
"""A shorter storm of hostile tenants prints what the others notice, and judges only what they got."""

STARTED = time.monotonic()


def main() -> int:
    """1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="chaos")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--hostile", action="store_true", help="hostile tenants instead of faults")
    parser.add_argument(
        "--forms", type=int, default=0, help="this many answers under schemas, calls and reasoning"
    )
    parser.add_argument("--seed", type=int, default=None, help="repeats the schedule of an earlier run")
    parser.add_argument("--json", type=Path, default=None, help="write the table there too")
    parser.add_argument("--logs", type=Path, default=None, help="keep the hosts' logs and the schedule there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = options.logs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        run = _hostile if options.hostile else _forms if options.forms else _faults
        outcome: Outcome | HostileOutcome | FormsOutcome = run(options, folder)
    print(outcome.summary)
    if options.json is not None:
        options.json.write_text(json.dumps(outcome.facts(), indent=2) + "\n")
    return 1 if outcome.facts()["violations"] else 0


def _faults(options: argparse.Namespace, folder: Path) -> Outcome:
    seed = _seed(options)
    outcome = asyncio.run(storm(60 * options.minutes, seed, folder, _say))
    if options.logs is not None:
        (folder / "schedule.txt").write_text("\n".join(outcome.ledger.history) + "\n")
    return outcome


def _forms(options: argparse.Namespace, folder: Path) -> FormsOutcome:
    return asyncio.run(forms_storm(options.forms, _seed(options), folder, _say))


def _seed(options: argparse.Namespace) -> int:
    seed: int = random.randrange(10**6) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    return seed


def _hostile(options: argparse.Namespace, folder: Path) -> HostileOutcome:
    compared = options.minutes >= JUDGED_FROM_MINUTES
    return asyncio.run(hostile_storm(60 * options.minutes, folder, _say, compared=compared))


def _say(line: str) -> None:
    print(f"{time.monotonic() - STARTED:6.0f} s: {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
