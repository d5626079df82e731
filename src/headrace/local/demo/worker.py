"""The tour's worker, a process of its own: `python -m headrace.local.demo.worker <what to run, as JSON>`."""

import json
import sys

from .pace import Pace


def command(pace: Pace) -> tuple[str, str]:
    """The module and its argument that start the worker of a tour at this pace."""
    return __name__, json.dumps({"step_s": pace.step_s, "settings": pace.worker})


def main() -> int:
    """Serve until told to stop; the exit status of `headrace worker`."""
    try:
        from ...workers.host.run import ENGINE_COMMAND, run
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is missing; pip install 'headrace[worker]'")
    from ...workers.settings import WorkerSettings

    given = json.loads(sys.argv[1])
    paced = (sys.executable, "-m", "headrace.local.demo.paced_engine", str(given["step_s"]))
    return run(WorkerSettings.load(**given["settings"]), paced if given["step_s"] else ENGINE_COMMAND)


if __name__ == "__main__":
    sys.exit(main())
