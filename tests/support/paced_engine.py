"""An engine process whose steps take at least as many seconds as a file says, while there is one."""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from headrace.engine import Engine, Progress
from headrace.workers.engine_process.main import main

VARIABLE = "TEST_STEP_S"
"""The environment variable that names the file."""

_step = Engine.step


def paced(engine: Engine) -> list[Progress]:
    """Step, then sleep."""
    progress = _step(engine)
    with suppress(FileNotFoundError):
        time.sleep(float(Path(os.environ[VARIABLE]).read_text() or 0))
    return progress


if __name__ == "__main__":
    Engine.step = paced  # type: ignore[method-assign]
    sys.exit(main(int(sys.argv[1])))
