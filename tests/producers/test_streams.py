import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis import Redis

from headrace import (
    BrokerUnavailable,
    Chunk,
    Client,
    HeadraceError,
    JobCancelled,
    JobExpired,
    JobFailed,
    JobHandle,
    JobNotFound,
    StreamReset,
)
from headrace.producers import mailbox, reading
from headrace.schemas.events import JobError, JobState

FIRST_TOKEN = 1000


def token_ids(chunks: list[Chunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.token_ids]


def expected(start: int, end: int) -> list[int]:
    return list(range(FIRST_TOKEN + start, FIRST_TOKEN + end))


def pubsub_connections(redis: Redis) -> int:
    return len(redis.client_list(_type="pubsub"))


def has_reader(redis: Redis, channel: str) -> bool:
    return dict(redis.pubsub_numsub(channel))[channel.encode()] > 0


class Reading:
    """A stream read in a thread of its own."""

    def __init__(self, job: JobHandle, from_offset: int = 0) -> None:
        self.chunks: list[Chunk] = []
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._read, args=(job, from_offset), daemon=True)
        self._thread.start()

    def _read(self, job: JobHandle, from_offset: int) -> None:
        try:
            for chunk in job.stream(from_offset):
                self.chunks.append(chunk)
        except HeadraceError as error:
            self.error = error

    def result(self) -> list[int]:
        self._thread.join(30)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
        return token_ids(self.chunks)


def test_a_stream_has_what_was_there_and_what_comes(
    client: Client, worker: Any, until: Callable[..., None]
) -> None:
    job = client.enqueue("x", model="m")
    running = worker.start()
    running.write(2, 1)
    stream = Reading(job)
    until(lambda: len(stream.chunks) == 2)
    running.write(3, 1, 1)
    running.finish(tail="!")
    assert stream.result() == expected(0, 8)
    assert [chunk.offset for chunk in stream.chunks] == [2, 3, 6, 7, 8, 8]
    assert "".join(chunk.text for chunk in stream.chunks) == running.text + "!"


def test_an_ended_job_is_replayed_without_a_subscription(client: Client, redis: Redis, worker: Any) -> None:
    job = client.enqueue("x", model="m")
    running = worker.start()
    running.write(2, 3)
    running.finish()
    assert token_ids(list(job.stream())) == expected(0, 5)
    assert pubsub_connections(redis) == 0


@pytest.mark.parametrize("from_offset", range(7))
def test_a_stream_begins_at_any_offset_even_inside_a_chunk(
    client: Client, worker: Any, from_offset: int
) -> None:
    job = client.enqueue("x", model="m")
    running = worker.start()
    running.write(2, 3, 1)
    running.finish()
    chunks = list(job.stream(from_offset))
    assert token_ids(chunks) == expected(from_offset, 6)
    assert all(chunk.start >= from_offset for chunk in chunks)


@pytest.mark.parametrize("from_offset", [0, 1, 2, 4])
def test_a_stream_from_an_offset_goes_on_live(
    client: Client, redis: Redis, worker: Any, until: Callable[..., None], from_offset: int
) -> None:
    job = client.enqueue("x", model="m")
    running = worker.start()
    running.write(4)
    stream = Reading(job, from_offset)
    until(lambda: has_reader(redis, worker.tag.chan(job.id)))
    running.write(3)
    running.finish()
    assert stream.result() == expected(from_offset, 7)


def test_a_negative_offset_is_refused_at_the_call(client: Client) -> None:
    with pytest.raises(ValueError, match="from_offset = -1"):
        client.enqueue("x", model="m").stream(from_offset=-1)


def test_fifty_streams_share_one_connection_and_each_gets_every_token_once(
    client: Client, redis: Redis, worker: Any, until: Callable[..., None]
) -> None:
    jobs = client.enqueue_many([{"prompt": "x", "model": "m"}] * 50)
    running = worker.start_all()
    for number, job in enumerate(jobs):
        running[job.id].write(*[1] * (number % 5))
    streams = [Reading(job) for job in jobs]

    def work(job: JobHandle) -> None:
        running[job.id].write(*[1, 2, 1] * 10)
        running[job.id].finish()

    with ThreadPoolExecutor(4) as pool:
        halves = [pool.submit(work, job) for job in jobs[:25]]
        until(lambda: all(has_reader(redis, worker.tag.chan(job.id)) for job in jobs[25:]))
        assert pubsub_connections(redis) == 1
        halves += [pool.submit(work, job) for job in jobs[25:]]
        for half in halves:
            half.result()
    for number, stream in enumerate(streams):
        assert stream.result() == expected(0, number % 5 + 40)
    assert sum(thread.name == "headrace-hub" for thread in threading.enumerate()) == 1


def test_killed_connections_lose_and_repeat_nothing(
    client: Client, redis: Redis, worker: Any, until: Callable[..., None]
) -> None:
    job = client.enqueue("x", model="m")
    channel = worker.tag.chan(job.id)
    running = worker.start()
    stream = Reading(job)
    for _ in range(4):
        until(lambda: has_reader(redis, channel))
        running.write(1, 2)
        redis.client_kill_filter(_type="pubsub")
        redis.client_kill_filter(_type="normal", skipme=True)
        running.write(1, 1)
    until(lambda: has_reader(redis, channel))
    running.finish()
    assert stream.result() == expected(0, 20)


def test_a_reader_slower_than_its_buffer_reads_on_from_the_log(
    client: Client, redis: Redis, worker: Any, until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "MAX_HELD", 8)
    monkeypatch.setattr(reading, "LOG_PAGE", 10)
    slow, quick = client.enqueue("x", model="m"), client.enqueue("y", model="m")
    running = worker.start_all()
    chunks = slow.stream()
    running[slow.id].write(1)
    taken = [next(chunks)]
    other = Reading(quick)
    until(lambda: has_reader(redis, worker.tag.chan(quick.id)))
    subscribed = threading.Event()

    def read_one() -> None:
        taken.append(next(chunks))
        subscribed.set()

    thread = threading.Thread(target=read_one)
    thread.start()
    until(lambda: has_reader(redis, worker.tag.chan(slow.id)))
    running[slow.id].write(1)
    assert subscribed.wait(10)
    thread.join()
    running[slow.id].write(*[1] * 60)
    running[slow.id].finish()
    running[quick.id].write(*[1] * 20)
    running[quick.id].finish()
    assert other.result() == expected(0, 20)
    assert token_ids(taken + list(chunks)) == expected(0, 62)


def test_a_lost_publication_is_found_in_the_log(
    client: Client, redis: Redis, worker: Any, until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "SILENCE_S", 0.2)
    job = client.enqueue("x", model="m")
    running = worker.start()
    stream = Reading(job)
    until(lambda: has_reader(redis, worker.tag.chan(job.id)))
    running.write(1)
    running.write_silently(2)
    until(lambda: token_ids(stream.chunks) == expected(0, 3))
    running.write_silently(1)
    running.write(1)  # its start shows that one before it is missing
    running.finish()
    assert stream.result() == expected(0, 5)


@pytest.mark.parametrize(
    ("state", "error"), [("failed", JobFailed), ("cancelled", JobCancelled), ("expired", JobExpired)]
)
def test_an_ending_that_is_no_success_is_raised_after_the_last_chunk(
    client: Client, worker: Any, state: str, error: type[HeadraceError]
) -> None:
    job = client.enqueue("x", model="m")
    running = worker.start()
    running.write(2)
    reason = JobError(code="context_length", message="too long") if state == "failed" else None
    running.finish(JobState(state), error=reason)
    chunks = job.stream()
    assert next(chunks).token_ids == tuple(expected(0, 2))
    with pytest.raises(error) as caught:
        next(chunks)
    if isinstance(caught.value, JobFailed):
        assert caught.value.reason == "context_length"


def test_a_cancelled_job_ends_its_stream(
    client: Client, redis: Redis, worker: Any, until: Callable[..., None]
) -> None:
    job = client.enqueue("x", model="m")
    stream = Reading(job)
    until(lambda: has_reader(redis, worker.tag.chan(job.id)))
    assert job.cancel() == "cancelled"
    with pytest.raises(JobCancelled):
        stream.result()
    assert job.cancel() == "already"


def test_a_job_that_expires_in_the_queue_ends_its_stream(
    client: Client, worker: Any, until: Callable[..., None]
) -> None:
    job = client.enqueue("x", model="m", deadline_s=0.05)
    stream = Reading(job)
    until(lambda: (worker.upkeep(), job.status().state)[1] == "expired")
    with pytest.raises(JobExpired):
        stream.result()


def test_a_log_shorter_than_the_cursor_is_a_reset(client: Client, worker: Any) -> None:
    job = client.enqueue("x", model="m")
    worker.start().write(3)
    with pytest.raises(StreamReset) as caught:
        list(job.stream(from_offset=4))
    assert (caught.value.seen, caught.value.offset) == (4, 3)


def test_a_log_that_was_written_again_from_an_earlier_offset_is_a_reset(
    client: Client, redis: Redis, worker: Any, until: Callable[..., None]
) -> None:
    job = client.enqueue("x", model="m")
    running = worker.start()
    stream = Reading(job)
    until(lambda: has_reader(redis, worker.tag.chan(job.id)))
    running.write(2, 2)
    until(lambda: len(stream.chunks) == 2)
    redis.delete(worker.tag.out(job.id))  # what a failover to an old replica looks like
    redis.hset(worker.tag.job(job.id), "offset", 0)
    running.offset = 0
    running.write(3, 2)
    with pytest.raises(StreamReset) as caught:
        stream.result()
    assert (caught.value.seen, caught.value.offset) == (4, 3)
    running.finish()


@pytest.mark.parametrize("chunks", [(4,), (2, 2), (3, 3)])
def test_a_reader_is_told_that_its_job_begins_from_scratch_however_fast_that_is(
    client: Client, redis: Redis, worker: Any, until: Callable[..., None], chunks: tuple[int, ...]
) -> None:
    """The new tokens may be past what was seen when the reader looks: none of them is delivered."""
    job = client.enqueue("x", model="m")
    stream = job.stream()
    running = worker.start(fingerprint="a" * 16)
    running.write(2, 2)
    assert token_ids([next(stream), next(stream)]) == expected(0, 4)
    worker.give_back(running)
    worker.change_model()
    again = worker.start(fingerprint="b" * 16)
    again.write(*chunks)
    with pytest.raises(StreamReset) as caught:
        next(stream)
    assert (caught.value.seen, caught.value.offset) == (4, 0)
    again.finish()
    assert token_ids(list(job.stream())) == expected(0, sum(chunks))
    result = job.result()
    assert (result.restarts, result.fingerprint) == (1, "b" * 16)


def test_a_log_with_a_hole_is_reported(client: Client, redis: Redis, worker: Any) -> None:
    job = client.enqueue("x", model="m")
    running = worker.start()
    running.write(1, 1, 1)
    running.finish()
    redis.xdel(worker.tag.out(job.id), "2-0")
    chunks = job.stream()
    assert next(chunks).offset == 1
    with pytest.raises(HeadraceError, match="token 1: it was changed from outside"):
        next(chunks)
    assert job.result().token_ids == tuple(expected(0, 3))


def test_a_log_that_is_gone_after_the_end_is_reported(client: Client, redis: Redis, worker: Any) -> None:
    job = client.enqueue("x", model="m")
    running = worker.start()
    running.write(1)
    running.finish()
    redis.delete(worker.tag.out(job.id))
    with pytest.raises(HeadraceError, match="token 0"):
        list(job.stream())


def test_a_job_whose_record_is_gone_is_not_found(
    client: Client, redis: Redis, worker: Any, monkeypatch: pytest.MonkeyPatch, until: Callable[..., None]
) -> None:
    monkeypatch.setattr(reading, "SILENCE_S", 0.1)
    job = client.enqueue("x", model="m")
    stream = Reading(job)
    until(lambda: has_reader(redis, worker.tag.chan(job.id)))
    redis.delete(worker.tag.job(job.id))
    with pytest.raises(JobNotFound):
        stream.result()
    for call in (job.status, job.cancel, job.result, lambda: list(job.stream())):
        with pytest.raises(JobNotFound):
            call()


def test_a_long_log_is_read_in_pages(client: Client, worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LOG_PAGE", 7)
    job = client.enqueue("x", model="m")
    running = worker.start()
    running.write(*[1] * 27)
    running.finish()
    assert token_ids(list(job.stream())) == expected(0, 27)


def test_closing_the_client_ends_its_streams(
    redis_url: str, redis: Redis, worker: Any, until: Callable[..., None]
) -> None:
    client = Client(redis_url)
    job = client.enqueue("x", model="m")
    stream = Reading(job)
    until(lambda: has_reader(redis, worker.tag.chan(job.id)))
    client.close()
    for call in (stream.result, job.status, job.result, lambda: client.enqueue("x", model="m")):
        with pytest.raises(BrokerUnavailable, match="closed"):
            call()
    until(lambda: pubsub_connections(redis) == 0)


def test_an_abandoned_stream_unsubscribes(
    client: Client, redis: Redis, worker: Any, until: Callable[..., None]
) -> None:
    job = client.enqueue("x", model="m")
    running = worker.start()
    running.write(1)
    chunks = job.stream()
    next(chunks)
    timer = threading.Timer(0.1, running.write, (1,))
    timer.start()
    next(chunks)
    timer.join()
    assert has_reader(redis, worker.tag.chan(job.id))
    del chunks
    until(lambda: not has_reader(redis, worker.tag.chan(job.id)))


def test_closing_in_the_midst_of_reading_is_no_surprise(redis_url: str, worker: Any) -> None:
    with Client(redis_url) as client:
        jobs = client.enqueue_many([{"prompt": "x", "model": "m"}] * 20)
        for running in worker.start_all().values():
            running.write(*[1] * 50)
        streams = [Reading(job) for job in jobs]
    for stream in streams:
        with pytest.raises(BrokerUnavailable, match="closed"):
            stream.result()
