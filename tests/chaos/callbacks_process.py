"""`headrace callbacks` as its command starts it, with a fuse, forked from one that has loaded all."""

import json
import mmap
import os
import socket
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

import celery.apps.worker  # noqa: F401
import kombu.transport.redis  # noqa: F401

from headrace.producers.celery import task  # noqa: F401
from headrace.producers.celery.app import make_app
from headrace.schemas.settings.celery import CelerySettings
from headrace.workers.callbacks.run import run
from headrace.workers.settings import CallbacksSettings

from .callbacks_points import Fuse, Point, arm
from .nursery import serve


def run_callbacks(_: socket.socket, order: dict[str, Any]) -> int:
    """Be the process; its exit status."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    settings = CallbacksSettings.model_validate_json(order["settings"])
    os.environ["HEADRACE_REDIS_URL"] = settings.redis_url
    with Path(order["in_doubt"]).open("r+b") as doubt:
        in_doubt = mmap.mmap(doubt.fileno(), 1)
    fuse = Fuse(in_doubt, order["point"] and Point(**order["point"]))
    arm(fuse)
    app = make_app(CelerySettings(redis_url=settings.redis_url))
    app.conf.update(order["celery"])
    try:
        status = run(settings, app)
    except BaseException:
        traceback.print_exc()
        return 99
    if order["record"]:
        Path(order["record"]).write_text(json.dumps([asdict(point) for point in fuse.passed]))
    return status


if __name__ == "__main__":
    serve(run_callbacks)
