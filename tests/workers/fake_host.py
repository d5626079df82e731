"""`headrace worker` with a stand-in for the engine process: `fake_host.py <settings as JSON> <behaviour>`."""

import sys
from pathlib import Path

from headrace.workers.celery_worker import consumer
from headrace.workers.host.run import run
from headrace.workers.settings import WorkerSettings

if __name__ == "__main__":
    consumer.FIRST_PAUSE_S = consumer.MOST_PAUSE_S = 0.2
    settings, behaviour = sys.argv[1:]
    engine = Path(__file__).with_name("fake_engine.py")
    sys.exit(run(WorkerSettings.model_validate_json(settings), [sys.executable, str(engine), behaviour]))
