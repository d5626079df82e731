"""The engine process, with a pause in every step."""

import sys
import time
from typing import Any

from headrace.engine import Engine
from headrace.workers.engine_process.main import main

PACE_S = 0.006

step = Engine.step


def paced_step(engine: Engine) -> Any:
    time.sleep(PACE_S)
    return step(engine)


if __name__ == "__main__":
    Engine.step = paced_step  # type: ignore[method-assign]
    sys.exit(main(int(sys.argv[1])))
