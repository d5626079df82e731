"""Whatever number a job has in any of its parameters, it is refused by name or ends; the engine goes on."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import Client, InvalidJob, JobFailed, JobHandle

from ..support.waiting import wait_until
from .conftest import assert_whole, leaked_keys

pytestmark = [pytest.mark.serial, pytest.mark.timeout(300)]

BASE = {"prompt": "A tuple is", "model": "demo", "max_tokens": 3, "ignore_eos": True, "max_attempts": 1}
NEIGHBOUR = BASE | {"max_tokens": 150, "seed": 7, "top_p": 0.9, "prompt": "Return the first"}

TINY = [5e-324, 2.0**-1074, 1e-320, 2.2250738585072014e-308, 1e-300, 1e-46, 2.0**-149, 1e-40, 1.17549435e-38]
FLOATS = [*TINY, *(-x for x in TINY), 0.0, -0.0, 1e-9, 1 - 1e-16, 1.0, math.nextafter(1, 2), 3.5e38, 1.8e308]
FLOATS += [math.inf, -math.inf, math.nan, 2**63, 10**400, -(10**400), 10**5000]
INTS = [0, -1, 1, 2, 20, 21, 2**24, 2**24 + 1, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 2**64, 2**70, -(2**63)]
INTS += [10**400, 10**5000, -(10**5000)]
EDGES: dict[str, Sequence[Any]] = {
    "temperature": [*FLOATS, 100.0, math.nextafter(100, 101)],
    "top_p": FLOATS,
    "min_p": FLOATS,
    "presence_penalty": [*FLOATS, -2.0, 2.0, math.nextafter(2, 3)],
    "frequency_penalty": [*FLOATS, -2.0, 2.0, math.nextafter(-2, -3)],
    "repetition_penalty": [*FLOATS, 0.01, math.nextafter(0.01, 0), 100.0, math.nextafter(100, 101)],
    "top_k": INTS,
    "seed": INTS,
    "min_tokens": INTS,
    "max_tokens": [x for x in INTS if x != 2**24],
    "logprobs": INTS,
    "n": INTS,
    "logit_bias": [
        *({5: x} for x in (*FLOATS, 100, -100, 101)),
        *({x: 1.0} for x in INTS),
        dict.fromkeys(range(1024), -100.0),
        dict.fromkeys(range(1025), 1.0),
    ],
    "stop_token_ids": [*((x,) for x in INTS), tuple(range(64)), tuple(range(65))],
    "stop": [(), ("",), ("\x00",), ("a" * 256,) * 16, ("a" * 257,), ("a",) * 17],
    "max_attempts": INTS,
}
COMPANY: list[Mapping[str, Any]] = [{}, {"top_p": 0.9, "logprobs": 2, "repetition_penalty": 1.1}]
"""What the edges are tried with: each alone, and what takes the most ways through sampling."""

NUMBERS = st.one_of(st.floats(), st.floats(0, 1e-30), st.sampled_from(FLOATS), st.sampled_from(INTS))
JOBS = st.fixed_dictionaries(
    {},
    optional={
        **{name: NUMBERS for name in EDGES if name not in {"logit_bias", "stop_token_ids", "stop"}},
        "max_tokens": st.sampled_from([1, 2, 3, 0, 2**70]),
        "logit_bias": st.dictionaries(st.integers(-1, 3000), NUMBERS, max_size=4),
        "stop_token_ids": st.lists(st.integers(-1, 3000), max_size=5),
        "ignore_eos": st.booleans(),
    },
)


def outcome(job: JobHandle) -> str:
    """Why it ended."""
    try:
        return job.result(timeout_s=200).finish_reason
    except JobFailed as failure:
        return failure.reason


def settle(client: Client, jobs: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """How many of these were refused and how many ended; all others are an error."""
    started: list[JobHandle] = []
    named: list[tuple[str, Mapping[str, Any]]] = []
    for job in jobs:
        try:
            started.append(client.enqueue(**{**BASE, **job}))
        except InvalidJob as refusal:
            named.append((refusal.field.partition(".")[0], job))
    assert all(field in {*job, "job"} for field, job in named)
    assert {outcome(job) for job in started} <= {"stop", "length", "invalid_job"}
    return len(named), len(started)


def test_a_fixed_length_is_kept_whatever_would_stop_it_also_by_who_takes_over(
    redis_url, redis, start_worker, expected_tokens
):
    worker = start_worker(redis_url, engines=2)
    fields = BASE | {"ignore_eos": False, "max_attempts": 3, "seed": 5, "max_tokens": 500, "min_tokens": 500}
    job = worker.client.enqueue(**fields, stop=["e", " ", "re"], stop_token_ids=[300, 301])
    next(iter(job.stream()))
    held_by = wait_until(lambda: job.status().worker)
    assert worker.kill_engine(held_by)
    result = job.result(timeout_s=200)
    tokens = expected_tokens(**fields, stop_token_ids=[300, 301])
    assert (assert_whole(redis, job), len(tokens)) == (tokens, 500)
    assert result.worker != held_by


def test_every_number_in_every_parameter_is_refused_by_name_or_ends_and_a_neighbour_loses_nothing(
    redis_url, redis, start_worker, expected_tokens
):
    worker = start_worker(redis_url)
    client, neighbours = worker.client, []
    for name, values in EDGES.items():
        neighbours.append(client.enqueue(**NEIGHBOUR))
        counts = settle(client, [{**company, name: value} for value in values for company in COMPANY])
        print(f"{name}: {counts[0]} refused, {counts[1]} ran")
        assert all(counts)

    @given(st.lists(JOBS, min_size=20, max_size=20))
    @settings(max_examples=8, deadline=None, database=None)
    def run_together(jobs: list[dict[str, Any]]) -> None:
        neighbours.append(client.enqueue(**NEIGHBOUR))
        settle(client, jobs)

    run_together()
    expected = expected_tokens(**NEIGHBOUR)
    assert all(assert_whole(redis, job) == expected for job in neighbours if job.result(timeout_s=200))
    assert len(worker.events("engine_ready")) == 1
    assert worker.events("engine_died") == []
    assert leaked_keys(redis) == []
