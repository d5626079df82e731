"""The paced engine process, that dies of a certain prompt as of a bad kernel: in the step after it came."""

import os
import signal
import sys
from typing import Any

from headrace.engine import Engine
from headrace.workers.engine_process.main import main

from .paced_engine import paced_step

POISON = 7
"""Of which token a whole prompt is, to be deadly."""

submit = Engine.submit


def poisoned_submit(engine: Engine, request: Any) -> None:
    submit(engine, request)
    if set(request.prompt_ids) == {POISON}:
        engine.step = lambda: os.kill(os.getpid(), signal.SIGSEGV)  # type: ignore[method-assign]


if __name__ == "__main__":
    Engine.step = paced_step  # type: ignore[method-assign]
    Engine.submit = poisoned_submit  # type: ignore[method-assign]
    sys.exit(main(int(sys.argv[1])))
