"""Jobs and events on the wire: what is wrong is named, what is secret stays so, what is new is borne."""

import json
import math
import re
from pathlib import Path

import pytest
from redis.crc import key_slot

from headrace.schemas import errors, keys
from headrace.schemas.errors import HeadraceError, InvalidJob, JobNotFound
from headrace.schemas.events import Chunk, End, JobState, chunk_payload, parse_event
from headrace.schemas.ids import new_job_id
from headrace.schemas.job import Job
from headrace.schemas.keys import BatchKeys, DeliveryKeys, Tag, is_permanent, tag_of
from headrace.schemas.wire import TokenizerTask, WireJob

GOOD = {"model": "m", "prompt": "hello"}
ROOT = Path(__file__).parents[2]

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"prompt": ""}, "prompt", "must not be empty"),
        ({"prompt": None}, "job", "exactly one of prompt, messages and prompt_token_ids (got none of them)"),
        ({"messages": [{"role": "user", "content": "x"}]}, "job", "got prompt and messages"),
        ({"prompt": None, "messages": []}, "messages", "must not be empty"),
        ({"prompt": None, "prompt_token_ids": [-1]}, "prompt_token_ids.0", "got -1"),
        ({"max_tokens": 0}, "max_tokens", "got 0"),
        ({"max_tokens": -3}, "max_tokens", "got -3"),
        ({"min_tokens": 10, "max_tokens": 5}, "job", "min_tokens=10 is above max_tokens=5"),
        ({"temperature": math.nan}, "temperature", "got nan"),
        ({"temperature": math.inf}, "temperature", "got inf"),
        ({"temperature": -0.1}, "temperature", "got -0.1"),
        ({"top_p": 0}, "top_p", "must be above 0"),
        ({"top_k": -1}, "top_k", "got -1"),
        ({"n": 129}, "n", "at most 128 (got 129)"),
        ({"colour": "red"}, "colour", "is not known (got <3 characters>)"),
        ({"model": "two words"}, "model", "two words"),
        ({"tenant": "a b"}, "tenant", "a b"),
        ({"job_class": "urgent"}, "job_class", "interactive"),
        ({"stop": [""]}, "stop.0", "must not be empty"),
        ({"logprobs": 1025}, "logprobs", "got 1025"),
        ({"prompt_logprobs": -1}, "prompt_logprobs", "got -1"),
        ({"webhook": {"url": "ftp://x"}}, "webhook.url", "ftp://x"),
        ({"webhook": {"url": "http://x", "sceret": SECRET}}, "webhook.sceret", "got <38 characters>"),
        ({"deadline_s": 0}, "deadline_s", "got 0"),
        ({"delay_s": math.inf}, "delay_s", "got inf"),
        ({"prompt": ["one", "two"]}, "prompt", "got <2 items>"),
        ({"max_tokens": "many"}, "max_tokens", "got 'many'"),
        ({"max_tokens": 1.5}, "max_tokens", "got 1.5"),
        ({"min_p": 1.1}, "min_p", "got 1.1"),
        ({"presence_penalty": 3}, "presence_penalty", "got 3"),
        ({"repetition_penalty": 0}, "repetition_penalty", "got 0"),
        ({"repetition_penalty": 1e-40}, "repetition_penalty", "must be at least 0.01 (got 1e-40)"),
        (
            {"prompt": None, "messages": [{"role": "user", "content": ""}] * 10_001},
            "messages",
            "at most 10000",
        ),
        ({"logit_bias": dict.fromkeys(range(1025), 1.0)}, "logit_bias", "at most 1024 items"),
        ({"allowed_token_ids": range(8193)}, "allowed_token_ids", "at most 8192 items"),
        ({"logit_bias": {3: math.inf}}, "logit_bias.3", "got inf"),
        ({"seed": 2**63}, "seed", "got 9223372036854775808"),
        ({"max_tokens": 10**5000}, "max_tokens", "got <a number of 16610 bits>"),
        ({"min_p": -(10**5000)}, "min_p", "got <a number of 16610 bits>"),
        ({"logit_bias": {"-1": 0}}, "logit_bias.-1", "its key must be at least 0 (got '-1')"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1", "got 101"),
        ({"seed": -1}, "seed", "got -1"),
        ({"stop": ["x"] * 17}, "stop", "at most 16"),
        ({"response_format": "json"}, "response_format.type", "got 'json'"),
        ({"idempotency_key": "two words"}, "idempotency_key", "got 'two words'"),
        ({"max_attempts": 0}, "max_attempts", "got 0"),
        ({"metadata": {"a": 1}}, "metadata.a", "got 1"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a", "at most 512 characters"),
        ({"metadata": {"k" * 65: "x"}}, f"metadata.{'k' * 65}", "its key must have at most 64 characters"),
        ({"metadata": {str(n): "" for n in range(65)}}, "metadata", "at most 64 items"),
        ({"max_token": 5}, "max_token", "did you mean max_tokens?"),
        ({"webhook": {"url": "https://x", "event": []}}, "webhook.event", "did you mean events?"),
        ({"tenant": ""}, "tenant", "must be 1 to 64 letters, digits or _ . @ - (got '')"),
        ({"webhook": "https://x"}, "webhook", "must be a dict"),
        ({"tools": [{"name": "f"}]}, "job", "tools need messages"),
        ({"tool_choice": "none"}, "job", "tool_choice needs messages"),
        ({"webhook": {"url": "https://x", "events": ["job.moved"]}}, "webhook.events.0", "got 'job.moved'"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(change, field, words):
    with pytest.raises(InvalidJob) as error:
        Job.make(**{**GOOD, **change})
    assert error.value.field == field
    assert words in error.value.reason


@pytest.mark.parametrize("asked", [2**31, 2**63, 2**70, 10**5000], ids=int.bit_length)
def test_a_top_k_past_every_vocabulary_travels_as_one_that_all_workers_hold(asked):
    job = WireJob.from_wire(WireJob.of(Job.make(**GOOD, top_k=asked)).to_wire())
    assert job.top_k == 2**31 - 1


@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty"])
@pytest.mark.parametrize("value", [5e-324, 1e-46, 1e-40])
def test_numbers_that_float32_makes_zero_are_accepted_as_they_are(name, value):
    job = WireJob.from_wire(WireJob.of(Job.make(**GOOD, **{name: value})).to_wire())
    assert getattr(job, name) == value


@pytest.mark.parametrize("fields", [{"model": "m" * 5000}, {"metadata": {"k" * 5000: "v"}}])
def test_what_is_long_is_not_repeated_whole(fields):
    with pytest.raises(InvalidJob) as error:
        Job.make(**{**GOOD, **fields})
    assert len(str(error.value)) < 300


def test_a_job_travels_unchanged_and_without_its_defaults():
    job = Job.make(
        **GOOD,
        stop="END",
        logit_bias={5: 1.5},
        webhook={"url": "https://x.example/h", "secret": SECRET},
        metadata={"a": "b"},
    )
    wire = WireJob.of(job).to_wire()
    assert WireJob.from_wire(wire) == WireJob.of(job)
    assert "temperature" not in wire
    assert json.loads(WireJob.of(Job.make(**GOOD)).to_wire()) == {"v": 1, **GOOD}


def test_a_webhook_secret_never_shows():
    job = Job.make(**GOOD, webhook={"url": "https://x.example/h", "secret": SECRET})
    assert SECRET not in repr(job) + str(job) + repr(job.webhook)
    with pytest.raises(InvalidJob) as error:
        Job.make(**GOOD, webhook={"url": "https://x.example/h", "secret": [SECRET]})
    assert SECRET not in str(error.value)


def test_a_record_that_is_no_job_says_so():
    with pytest.raises(InvalidJob):
        WireJob.from_wire("not json")


def test_events_travel_and_bear_fields_of_newer_workers():
    chunk = parse_event(chunk_payload(7, ["é", "x"], [1, 2], None))
    assert chunk == Chunk(offset=7, text="éx", token_ids=(1, 2), lengths=(1,))
    assert chunk.start == 5
    end = parse_event(
        '{"offset":7,"end":"failed","finish_reason":"error","new":1,"error":{"code":"c","message":"m"}}'
    )
    assert isinstance(end, End)
    assert (end.end, end.error.code) == (JobState.FAILED, "c")


def test_an_id_names_its_queue():
    job_id = new_job_id("Qwen/Qwen3-0.6B", 3)
    assert tag_of(job_id) == Tag("Qwen/Qwen3-0.6B", 3)
    assert "/" not in job_id
    ids = [new_job_id("m") for _ in range(100)]
    assert len(set(ids)) == 100


def test_all_keys_of_a_queue_share_a_cluster_slot():
    tag, job_id = Tag("Qwen/Qwen3-0.6B", 3), new_job_id("Qwen/Qwen3-0.6B", 3)
    names = [
        tag.lane("batch", "a@b.c"),
        tag.idem("t", "k{x}"),
        tag.job(job_id),
        tag.out(job_id),
        tag.worker("{w}"),
    ]
    assert {key_slot(name.encode()) for name in names} == {key_slot(tag.base.encode())}
    assert key_slot(tag.base.encode()) != key_slot(Tag("Qwen/Qwen3-0.6B", 4).base.encode())


@pytest.mark.parametrize("job_id", ["", "x", "01j.0.demo", "../etc", "0" * 26 + ".0.{m}"])
def test_what_is_no_id_is_no_job(job_id):
    with pytest.raises(JobNotFound):
        tag_of(job_id)


def test_every_key_that_a_script_names_has_its_twin():
    names = set()
    for path in (ROOT / "schemas" / "scripts").glob("*.lua"):
        names |= set(re.findall(r"key\('(\w+)'", path.read_text()))
    twins = {
        name for keys in (Tag, BatchKeys, DeliveryKeys) for name in vars(keys) if not name.startswith("_")
    }
    assert names - {"full"} <= twins  # `full` is deleted, never made: see allow_when_full


def test_key_names_are_written_in_one_place_only():
    files = [
        path
        for folder in ("schemas", "producers", "workers", "telemetry", "src/headrace")
        for suffix in ("*.py", "*.lua")
        for path in (ROOT / folder).rglob(suffix)
    ]
    for path in files:
        if path.name != "keys.py":
            assert not re.search(r"""["']hr:|:(lane|leases|outbox|job|out|chan):""", path.read_text()), path


def test_permanent_keys_are_those_of_the_queue_and_no_jobs():
    tag = Tag("m")
    for key in (
        tag.lane("batch", "t"),
        tag.retry("batch"),
        tag.suspects("batch"),
        tag.running("t"),
        tag.parked,
        tag.pulse,
        tag.leases,
        tag.backlog("batch"),
        tag.workers,
        keys.models(),
    ):
        assert is_permanent(key)
    for key in (tag.job("x"), tag.out("x"), tag.worker("w"), tag.idem("t", "k"), "other"):
        assert not is_permanent(key)


def test_every_error_has_a_code_a_status_and_a_place_in_the_tree():
    tree = errors.__doc__
    leaves = [
        thing
        for name, thing in vars(errors).items()
        if isinstance(thing, type) and issubclass(thing, HeadraceError) and not name.startswith("_")
    ]
    for leaf in leaves:
        assert leaf.__name__ in tree
        assert leaf.__doc__
        assert 400 <= leaf.http_status < 600
    codes = [leaf.code for leaf in leaves]
    assert len(set(codes)) == len(codes)


def test_a_job_of_the_tokenizer_travels_and_is_refused_by_name_where_it_is_not_known():
    task = TokenizerTask(kind="tokenize", add_generation_prompt=False)
    wire = WireJob.of(Job.make(model="m", prompt="x")).model_copy(update={"tokenizer": task})
    assert WireJob.from_wire(wire.to_wire()).tokenizer == task
    with pytest.raises(InvalidJob, match="newer"):  # as `tokenizer` is to an older worker
        WireJob.from_wire(wire.to_wire().replace('"tokenizer"', '"newer"'))
