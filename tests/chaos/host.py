"""`headrace worker` for a storm: `python -m tests.chaos.host <engine process's module> <settings as JSON>`.

Its engine processes die all the time, so that waiting before a restart would only idle; and they generate at
the pace of a larger model, so that jobs live long enough to be hit.
"""

import sys

from headrace.workers.host.backoff import RestartPolicy
from headrace.workers.host.run import run
from headrace.workers.settings import WorkerSettings

AT_ONCE = RestartPolicy(first_s=0.05, most_s=0.1, loop_deaths=10**9)

if __name__ == "__main__":
    engine, settings = sys.argv[1:]
    sys.exit(run(WorkerSettings.model_validate_json(settings), (sys.executable, "-m", engine), AT_ONCE))
