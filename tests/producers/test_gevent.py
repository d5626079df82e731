"""Programs that gevent has patched: the client waits like any greenlet, and the others run."""

import json
import subprocess
import sys
from collections.abc import Callable

from headrace import Client

from .conftest import MODEL, ScriptedWorker

READERS = 4
TICKS = 20

PROGRAM = """
from gevent import monkey; monkey.patch_all()
import json, sys
import gevent
from headrace import Client

with Client(sys.argv[1]) as client:
    def read(job_id):
        return "".join(chunk.text for chunk in client.job(job_id).stream(timeout_s=60))

    def tick():
        while True:
            gevent.sleep(0.001)
            print("tick", flush=True)

    readers = [gevent.spawn(read, job_id) for job_id in sys.argv[2:]]
    ticker = gevent.spawn(tick)
    gevent.joinall(readers, raise_error=True)
    ticker.kill()
    print(json.dumps([reader.value for reader in readers] + [client.job(sys.argv[2]).result().finish_reason]))
"""


def test_streams_of_a_patched_program_let_other_greenlets_run(
    redis_url: str, client: Client, worker: ScriptedWorker, until: Callable[..., object]
) -> None:
    jobs = [client.enqueue("x", model=MODEL) for _ in range(READERS)]
    running = worker.start_all()
    for each in running.values():
        each.write(1)
    command = [sys.executable, "-c", PROGRAM, redis_url, *(job.id for job in jobs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        try:
            channels = [worker.tag.chan(job.id) for job in jobs]
            until(lambda: all(count for _, count in worker.redis.pubsub_numsub(*channels)))
            for _ in range(TICKS):  # no stream has news meanwhile: each one waits
                assert program.stdout.readline() == "tick\n"
            for each in running.values():
                each.write(2)
                each.finish()
            out, err = program.communicate(timeout=60)
        finally:
            program.kill()
    assert err == ""
    *texts, reason = json.loads(out.splitlines()[-1])
    assert texts == [each.text for each in running.values()]
    assert reason == "length"
