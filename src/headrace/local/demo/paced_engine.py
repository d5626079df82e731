"""The engine process at a reader's pace.

Started as `python -m headrace.local.demo.paced_engine <seconds a step> <pipe>`.
"""

import sys
import time

from ...engine import Engine, Progress
from ...workers.engine_process.main import main

_step = Engine.step


def keep_pace(step_s: float) -> None:
    """Make each step of an engine in this process take at least this long."""

    def paced(self: Engine) -> list[Progress]:
        end = time.monotonic() + step_s
        progress = _step(self)
        time.sleep(max(0.0, end - time.monotonic()))
        return progress

    Engine.step = paced  # type: ignore[method-assign]


if __name__ == "__main__":
    keep_pace(float(sys.argv[1]))
    sys.exit(main(int(sys.argv[2])))
