"""`headrace worker` with another engine process: `any_host.py <engine program> <the worker's arguments>`."""

import sys

from headrace.workers.host.run import run
from headrace.workers.settings import WorkerSettings

if __name__ == "__main__":
    names = [name.removeprefix("--").replace("-", "_") for name in sys.argv[2::2]]
    flags = dict(zip(names, sys.argv[3::2], strict=True))
    flags["redis_url"] = flags.pop("redis")
    engine = (sys.executable, sys.argv[1])
    sys.exit(run(WorkerSettings.load(**flags), engine))
