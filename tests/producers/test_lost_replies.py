"""Redis did it, but its reply was lost on the way: the same again changes nothing."""

import select
import socket
import threading

import pytest

from headrace import Client

pytestmark = pytest.mark.leaves_jobs


class LosesReplies(threading.Thread):
    """A proxy that passes everything on, but cuts the connection instead of passing on chosen replies."""

    def __init__(self, target_port: int) -> None:
        super().__init__(daemon=True)
        self.target_port, self.to_lose, self.lost = target_port, 0, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.start()

    def run(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client: socket.socket) -> None:
        losing = False
        with client, socket.create_connection(("127.0.0.1", self.target_port)) as server:
            while True:
                for readable in select.select([client, server], [], [])[0]:
                    data = readable.recv(1 << 20)
                    if not data:
                        return
                    if readable is client:
                        losing = losing or (self.to_lose > 0 and b"EVALSHA" in data)
                        server.sendall(data)
                    elif losing:
                        self.to_lose -= 1
                        self.lost += 1
                        return
                    else:
                        client.sendall(data)


@pytest.fixture
def lossy(redis_url):
    proxy = LosesReplies(int(redis_url.rpartition(":")[2].partition("/")[0]))
    with Client(f"redis://127.0.0.1:{proxy.port}/0", check_model=False) as client:
        client.enqueue("warm up", model="m").cancel()
        yield client, proxy
    proxy.listener.close()


def test_a_job_enqueued_again_after_a_lost_reply_is_one_job(lossy, redis):
    client, proxy = lossy
    proxy.to_lose = 2
    job = client.enqueue("x", model="m")
    assert proxy.lost == 2
    assert (job.status().state, redis.xlen("hr:{m:0}:lane:standard:default")) == ("queued", 1)


def test_many_jobs_enqueued_again_after_a_lost_reply_are_as_many(lossy, redis):
    client, proxy = lossy
    proxy.to_lose = 1
    jobs = client.enqueue_many([{"prompt": str(number), "model": "m"} for number in range(20)])
    assert proxy.lost == 1
    assert len({job.id for job in jobs}) == redis.xlen("hr:{m:0}:lane:standard:default") == 20


def test_a_cancel_repeated_after_a_lost_reply_says_that_the_job_has_ended(lossy):
    client, proxy = lossy
    job = client.enqueue("x", model="m")
    proxy.to_lose = 1
    assert job.cancel() in {"cancelled", "already"}
    assert job.status().state == "cancelled"
