"""An engine process that dies of a certain prompt, as a bad kernel would; everything else is the real one.

`poison_engine.py <fd>`: a step with the poisonous token ends the process with SIGSEGV.
"""

import os
import signal
import sys

from headrace.engine import Engine
from headrace.workers.engine_process import main

POISON = 7
"""Of which token a whole prompt is, to be poisonous."""

whole = Engine.submit


def submit(engine: Engine, request) -> None:
    """Take the request in; the poisonous one kills at the first step after it."""
    whole(engine, request)
    if set(request.prompt_ids) == {POISON}:
        engine.step = lambda: os.kill(os.getpid(), signal.SIGSEGV)


if __name__ == "__main__":
    Engine.submit = submit
    sys.exit(main(int(sys.argv[1])))
