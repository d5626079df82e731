import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable
from typing import Any

from redis import Redis

from headrace import Client


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked child that ends without the parent's clean-up; its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_parent_and_child_use_one_client_without_sharing_a_connection(
    client: Client, redis: Redis, worker: Any, until: Callable[..., None]
) -> None:
    parents, childs = client.enqueue("p", model="m"), client.enqueue("c", model="m")
    running = worker.start_all()
    seen: list[int] = []
    thread = threading.Thread(
        target=lambda: seen.extend(token for chunk in parents.stream() for token in chunk.token_ids)
    )
    thread.start()
    channel = worker.tag.chan(parents.id)
    until(lambda: dict(redis.pubsub_numsub(channel))[channel.encode()])

    def child() -> None:
        with Client(client._url) as own:
            feeder = threading.Timer(0.2, lambda: (running[childs.id].write(2), running[childs.id].finish()))
            running[childs.id].redis = own._link()._redis
            feeder.start()
            tokens = [token for chunk in client.job(childs.id).stream() for token in chunk.token_ids]
            feeder.join()
        assert tokens == [1000, 1001]
        assert client.enqueue("from the child", model="m").status().state == "queued"
        client.close()

    assert in_child(child) == 0
    running[parents.id].write(1, 2)
    running[parents.id].finish()
    thread.join(20)
    assert seen == [1000, 1001, 1002]
    assert client.enqueue("from the parent", model="m").status().state == "queued"


def _enqueue_in_worker(client: Client, results: Any) -> None:
    results.put(client.enqueue("x", model="m").status().state)


def test_a_client_made_before_the_fork_serves_every_worker(client: Client) -> None:
    client.enqueue("x", model="m")
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_enqueue_in_worker, args=(client, results)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [results.get(timeout=20) for _ in processes] == ["queued"] * 4
    for process in processes:
        process.join()
        assert process.exitcode == 0
