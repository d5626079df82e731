import inspect
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from headrace import (
    BadSetting,
    BrokerUnavailable,
    Client,
    HeadraceError,
    IdempotencyConflict,
    InvalidJob,
    Job,
    JobHandle,
    JobNotFound,
    JobsRefused,
    Limits,
    QueueFull,
    UnknownModel,
)
from headrace.producers.operations import Operations
from headrace.producers.steps import Calls, Request, drive
from headrace.schemas import keys
from headrace.schemas.settings.queue import QueueSettings
from headrace.schemas.wire import WireJob


def test_the_arguments_are_the_jobs_fields_with_the_same_defaults() -> None:
    arguments = inspect.signature(Client.enqueue).parameters
    fields = {name: info.get_default(call_default_factory=True) for name, info in Job.model_fields.items()}
    assert arguments.keys() - {"self"} == fields.keys()
    for name, argument in arguments.items():
        if name not in {"self", "model"}:
            assert argument.default == fields[name] or (argument.default is None and fields[name] == {}), name


def test_every_argument_arrives_in_the_job(client: Client, worker: Any) -> None:
    given = {
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "max_tokens": 7,
        "temperature": 0.5,
        "logit_bias": {3: -1.0},
        "stop": "END",
        "stop_token_ids": [2],
        "allowed_token_ids": [2, 3],
        "job_class": "interactive",
        "tenant": "t",
        "metadata": {"k": "v"},
        "stream": False,
    }
    client.enqueue(model="m", **given)
    spec = WireJob.from_wire(worker.start().claimed.spec)
    assert spec == WireJob.of(Job.make(model="m", **given))


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"messages": []}, "messages"),
        ({"prompt_token_ids": []}, "prompt_token_ids"),
        ({"prompt_token_ids": [-1]}, "prompt_token_ids.0"),
        ({}, "job"),
        ({"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, "job"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "max_tokens": -5}, "max_tokens"),
        ({"prompt": "x", "temperature": math.nan}, "temperature"),
        ({"prompt": "x", "temperature": -0.1}, "temperature"),
        ({"prompt": "x", "top_p": 0.0}, "top_p"),
        ({"prompt": "x", "deadline_s": math.inf}, "deadline_s"),
        ({"prompt": "x", "n": 9}, "n"),
        ({"prompt": "x", "job_class": "urgent"}, "job_class"),
        ({"prompt": "x", "tenant": "a b"}, "tenant"),
        ({"prompt": "x", "model": "no such name!"}, "model"),
        ({"prompt": "x" * 10 * 2**20}, "job"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_bad_value_is_refused_by_name_and_nothing_is_enqueued(
    client: Client, redis: Redis, arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidJob) as caught:
        client.enqueue(**({"model": "m"} | arguments))
    assert caught.value.field == field
    assert len(str(caught.value)) < 300
    assert not list(redis.scan_iter("*:job:*"))


def test_an_unknown_argument_is_a_type_error(client: Client) -> None:
    with pytest.raises(TypeError, match="max_token'"):
        client.enqueue("x", model="m", max_token=3)  # type: ignore[call-arg]


def test_a_model_that_was_never_served_is_refused(client: Client) -> None:
    with pytest.raises(UnknownModel, match=r"'other'.*served: m") as caught:
        client.enqueue("x", model="other")
    assert caught.value.known == ["m"]


def test_a_model_that_comes_later_is_found_at_once(client: Client, redis: Redis) -> None:
    with pytest.raises(UnknownModel):
        client.enqueue("x", model="late")
    redis.hset(keys.models(), "late", '{"id": "late"}')
    client.enqueue("x", model="late").cancel()


def test_the_check_for_the_model_can_be_turned_off(redis_url: str, worker: Any) -> None:
    with Client(redis_url, check_model=False) as client:
        client.enqueue("x", model="not-yet").cancel()


def test_the_served_models_are_read_once_a_minute(client: Client, redis: Redis) -> None:
    def reads() -> int:
        return int(redis.info("commandstats").get("cmdstat_hkeys", {"calls": 0})["calls"])

    client.enqueue("x", model="m")
    before = reads()
    for _ in range(5):
        client.enqueue("x", model="m")
    assert reads() == before


@pytest.mark.parametrize("partitions", [1, 7])
def test_an_idempotent_request_is_one_job_whichever_client_sends_it(
    redis_url: str, worker: Any, partitions: int
) -> None:
    with Client(redis_url, partitions=partitions) as one, Client(redis_url, partitions=partitions) as other:
        first = one.enqueue("x", model="m", idempotency_key="k")
        assert [other.enqueue("x", model="m", idempotency_key="k").id for _ in range(5)] == [first.id] * 5
        with pytest.raises(IdempotencyConflict) as caught:
            other.enqueue("y", model="m", idempotency_key="k")
        assert caught.value.job_id == first.id
        first.cancel()


def test_partitions_share_the_jobs(redis_url: str, worker: Any) -> None:
    with Client(redis_url, partitions=3) as client:
        jobs = client.enqueue_many({"prompt": "x", "model": "m"} for _ in range(60))
        assert {keys.tag_of(job.id).partition for job in jobs} == {0, 1, 2}
        assert sum(queue.depth for queue in client.queues()) == 60
        for job in jobs:
            job.cancel()


def test_a_full_queue_says_how_full_and_when_to_come_back(redis_url: str, worker: Any) -> None:
    with Client(redis_url, limits=Limits(max_queued_jobs=2)) as client:
        client.enqueue_many([{"prompt": "x", "model": "m"}] * 2)
        with pytest.raises(QueueFull) as caught:
            client.enqueue("x", model="m")
    assert caught.value.depth == 2
    assert caught.value.retry_after_s >= 1


def test_an_enqueue_whose_answer_was_lost_is_repeated_as_the_same_job(client: Client, redis: Redis) -> None:
    perform, lost = client._link().perform, []

    def losing(request: Request) -> Any:
        reply = perform(request)
        if isinstance(request, Calls) and not lost:
            lost.extend(reply)
            raise BrokerUnavailable("cut") from RedisConnectionError("cut")
        return reply

    job_id = drive(client._operations.enqueue(Job.make(prompt="x", model="m")), losing)
    assert lost == [job_id]
    assert len(list(redis.scan_iter("*:job:*"))) == 1


def test_a_redis_that_is_not_there_is_given_up_in_bounded_time(free_port: int) -> None:
    with Client(f"redis://127.0.0.1:{free_port}/0", retry_s=0.3) as client:
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="refused"):
            client.enqueue("x", model="m")
    assert 0.1 < time.monotonic() - started < 5


def test_what_is_no_redis_url_is_refused_at_once_without_its_password() -> None:
    with pytest.raises(BadSetting, match="is not a Redis URL") as caught:
        Client("http://:secret@localhost")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "setting",
    [
        {"namespace": "a:b"},
        {"partitions": 0},
        {"partitions": 2.5},
        {"partitions": 10_000},
        {"retention_s": math.nan},
        {"idempotency_s": math.inf},
        {"retention_s": "a day"},
        {"wait_replicas": -1},
        {"wait_s": 20},
        {"retry_s": None},
    ],
    ids=str,
)
def test_a_bad_setting_is_refused_by_name(setting: dict[str, Any]) -> None:
    with pytest.raises(BadSetting, match=next(iter(setting))):
        Client(**setting)


def test_a_redis_out_of_memory_refuses_clearly_and_at_once(
    own_redis: Any, redis_at: Callable[..., Redis]
) -> None:
    redis = redis_at(own_redis.url)
    redis.hset(keys.models(), "m", '{"id": "m"}')
    with Client(own_redis.url) as client:
        accepted = client.enqueue("x", model="m")
        redis.config_set("maxmemory", "1")
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="out of memory"):
            client.enqueue("x", model="m")
        with pytest.raises(JobsRefused, match="out of memory"):
            client.enqueue_many([{"prompt": "x", "model": "m"}] * 3)
        assert time.monotonic() - started < 2
        assert accepted.status().state == "queued"
        redis.config_set("maxmemory", "0")
        client.enqueue("x", model="m")


@pytest.fixture
def old_redis() -> Iterator[str]:
    """Something that answers like a Redis 6.0.9."""
    info = b"# Server\r\nredis_version:6.0.9\r\n"

    def serve(connection: socket.socket) -> None:
        with closing(connection):
            while data := connection.recv(65536):
                for line in data.split(b"\r\n"):
                    if line == b"INFO":
                        connection.sendall(b"$%d\r\n%s\r\n" % (len(info), info))
                    elif line in {b"PING", b"CLIENT", b"SELECT"}:
                        connection.sendall(b"+PONG\r\n" if line == b"PING" else b"+OK\r\n")

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_a_redis_that_is_too_old_is_refused_by_version(old_redis: str) -> None:
    with Client(old_redis) as client:
        for call in (lambda: client.enqueue("x", model="m"), client.models):
            with pytest.raises(BrokerUnavailable, match=r"Redis 6\.0\.9 is too old.*6\.2"):
                call()


def test_a_thousand_jobs_take_four_round_trips(client: Client) -> None:
    requests: list[Request] = []

    def counting(request: Request) -> Any:
        requests.append(request)
        return client._link().perform(request)

    operations = Operations(QueueSettings(), check_model=True, retry_s=5)
    ids = drive(operations.enqueue_many({"prompt": f"p{i}", "model": "m"} for i in range(1000)), counting)
    assert len({job_id for job_id in ids if isinstance(job_id, str)}) == 1000
    assert [len(request.calls) for request in requests if isinstance(request, Calls)] == [500, 500]
    assert len(requests) == 4  # the server's version, the served models, two batches


def test_large_prompts_make_small_batches(client: Client) -> None:
    requests: list[Request] = []

    def counting(request: Request) -> Any:
        requests.append(request)
        return client._link().perform(request)

    jobs = [{"prompt": "x" * 2**20, "model": "m"}] * 9
    drive(client._operations.enqueue_many(jobs), counting)
    assert [len(request.calls) for request in requests if isinstance(request, Calls)] == [4, 4, 1]


def test_a_job_that_is_refused_does_not_lose_the_others(client: Client, redis: Redis) -> None:
    client.enqueue("x", model="m", idempotency_key="taken")
    with pytest.raises(JobsRefused, match=r"4 of 7 jobs were refused.*job 1: prompt") as caught:
        client.enqueue_many(
            [
                {"prompt": "a", "model": "m"},
                {"prompt": "", "model": "m"},
                Job.make(prompt="b", model="m"),
                {"prompt": "c", "model": "other"},
                {"prompt": "d", "model": "m", "top": 1},
                {"prompt": "e", "model": "m", "idempotency_key": "taken"},
                {"prompt": "f", "model": "m"},
            ]
        )
    kinds = [type(outcome) for outcome in caught.value.outcomes]
    assert kinds == [
        JobHandle,
        InvalidJob,
        JobHandle,
        UnknownModel,
        InvalidJob,
        IdempotencyConflict,
        JobHandle,
    ]
    assert len(list(redis.scan_iter("*:job:*"))) == 4


def test_jobs_after_the_loss_of_redis_are_reported_one_by_one(
    own_redis: Any, redis_at: Callable[..., Redis]
) -> None:
    redis_at(own_redis.url).hset(keys.models(), "m", '{"id": "m"}')

    def jobs() -> Iterator[dict[str, str]]:
        for number in range(1200):
            if number == 700:
                own_redis.stop()
            yield {"prompt": "x", "model": "m"}

    with Client(own_redis.url, retry_s=0.2) as client:
        with pytest.raises(JobsRefused, match="700 of 1200") as caught:
            client.enqueue_many(jobs())
        outcomes = caught.value.outcomes
        assert all(isinstance(outcome, JobHandle) for outcome in outcomes[:500])
        assert all(isinstance(outcome, HeadraceError) for outcome in outcomes[500:])
        with pytest.raises(BrokerUnavailable):
            client.enqueue_many([{"prompt": "x", "model": "m"}])


def test_no_jobs_are_no_work(client: Client) -> None:
    assert client.enqueue_many([]) == []


def test_an_id_that_is_none_is_refused_at_once(client: Client) -> None:
    with pytest.raises(JobNotFound):
        client.job("12345")


def test_handles_of_the_same_job_are_equal(client: Client) -> None:
    job = client.enqueue("x", model="m")
    assert client.job(job.id) == job
    assert len({job, client.job(job.id)}) == 1
    assert job.id in repr(job)
