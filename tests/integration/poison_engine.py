"""An engine process that dies of certain prompts, as a bad kernel would; everything else is the real one.

`poison_engine.py <fd>`: with a poisonous job a step ends the process with SIGSEGV.
"""

import os
import signal
import sys

from headrace.engine import Engine
from headrace.workers.engine_process.main import main

POISON = 7
"""Of which token a whole prompt is, to kill at the first step."""

LATE_POISON = 8
"""Of which token a whole prompt is, to kill once it has `LATE_TOKENS` tokens."""
LATE_TOKENS = 30

whole = Engine.submit


def submit(engine: Engine, request) -> None:
    """Take the request in; a poisonous one kills at the first step after it, or at a later one."""
    whole(engine, request)
    if set(request.prompt_ids) == {POISON}:
        engine.step = die
    if set(request.prompt_ids) == {LATE_POISON}:
        engine.step = until_it_has(engine, request.id, LATE_TOKENS - len(request.output_ids))


def until_it_has(engine: Engine, request_id: str, left: int):
    """Steps as ever until the one that would give the request's last token, of which nobody learns."""
    step = engine.step

    def poisoned():
        nonlocal left
        progress = step()
        left -= sum(len(item.token_ids) for item in progress if item.id == request_id)
        if left <= 0:
            die()
        return progress

    return poisoned


def die() -> None:
    """As a bad pointer would have it."""
    os.kill(os.getpid(), signal.SIGSEGV)


if __name__ == "__main__":
    Engine.submit = submit
    sys.exit(main(int(sys.argv[1])))
