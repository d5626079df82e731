"""An engine process whose steps outlast its exchanges: each waits until what is under way is answered."""

import sys
from concurrent.futures import wait

from headrace.workers.engine_process.main import main
from headrace.workers.engine_process.runner import Runner

step = Runner._step


def slow_step(runner: Runner) -> bool:
    """Step; whatever is under way is answered meanwhile."""
    if runner._link._flight is not None:
        wait([runner._link._flight])
    return step(runner)


if __name__ == "__main__":
    Runner._step = slow_step
    sys.exit(main(int(sys.argv[1])))
