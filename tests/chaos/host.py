"""`headrace worker` for a storm: `python -m tests.chaos.host <settings as JSON>`.

Somebody else kills its engine processes all the time, so that waiting before a restart would only idle; and
they generate at the pace of a larger model, so that jobs live long enough to be hit.
"""

import sys

from headrace.workers.host.backoff import RestartPolicy
from headrace.workers.host.run import run
from headrace.workers.settings import WorkerSettings

AT_ONCE = RestartPolicy(first_s=0.05, most_s=0.1, loop_deaths=10**9)
ENGINE = (sys.executable, "-m", "tests.chaos.paced_engine")

if __name__ == "__main__":
    sys.exit(run(WorkerSettings.model_validate_json(sys.argv[1]), ENGINE, AT_ONCE))
