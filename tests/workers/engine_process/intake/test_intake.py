"""Jobs are read beside the engine: what takes too long, or too much, ends alone."""

import json
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from headrace.schemas.errors import BrokerUnavailable
from headrace.schemas.events import chunk_payload
from headrace.schemas.keys import Tag
from headrace.workers.engine_process.intake import lanes, places, record, token_log
from headrace.workers.engine_process.text import TextStream, Tokenizer
from headrace.workers.models import resolve_model

from .conftest import CONTEXT, spec_of

LOOPING = """{% for m in messages %}{% if m.content == 'loop' %}
{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}
{% if m.content == 'grow' %}{{ m.content * 999999999 }}{% endif %}{{ m.content }}{% endfor %}"""

HELLO = [{"role": "user", "content": "hello"}]
LOOP = [{"role": "user", "content": "loop"}]
GROW = [{"role": "user", "content": "grow"}]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(resolve_model("demo"))


@pytest.fixture
def looping(tmp_path: Path) -> str:
    """The built-in model's tokenizer with a template that a message can set looping."""
    folder = Path(shutil.copytree(resolve_model("demo"), tmp_path / "model"))
    (folder / "chat_template.jinja").write_text(LOOPING)
    return str(folder)


def places_of(desk: Any) -> list[psutil.Process]:
    return psutil.Process(desk.places.process.pid).children()


def wait_for(eventually: Any, desk: Any, count: int) -> list[Any]:
    found: list[Any] = []
    eventually(lambda: found.extend(desk.taken()) or len(found) >= count, 60)
    return found


def test_an_intake_process_started_early_is_taken_unless_it_has_ended(open_desk):
    places.start_early()
    ((_, process),) = places._early
    assert open_desk().places.process is process
    assert places._early == []
    places.start_early()
    ((_, process),) = places._early
    process.kill()
    process.wait()
    assert open_desk().places.process is not process


def test_a_job_comes_back_as_token_ids_with_its_parameters(desk, eventually, tokenizer):
    desk.put(spec_of(max_tokens=7, stop=["x"], seed=3, stream=False))
    desk.put(spec_of(prompt=None, messages=HELLO))
    plain, chat = wait_for(eventually, desk, 2)
    assert plain.request.prompt_ids == tokenizer.encode("A tuple is")
    assert (plain.request.params.max_tokens, plain.request.params.seed) == (7, 3)
    assert (plain.job.stop, plain.job.stream, plain.prepared.prompt_bytes) == (("x",), False, 10)
    assert chat.request.prompt_ids == tokenizer.chat(HELLO)


@pytest.mark.parametrize("messages", [LOOP, GROW], ids=["loops", "takes all memory"])
def test_a_template_that_comes_to_no_end_fails_its_own_job_by_name(open_desk, eventually, looping, messages):
    desk = open_desk(looping, most_s=4.0, memory_mb=1024)
    bad = desk.put(spec_of(prompt=None, messages=messages), tenant="bad")
    good = [desk.put(spec_of(prompt=None, messages=HELLO), tenant="good") for _ in range(5)]
    done = {admission.running: admission for admission in wait_for(eventually, desk, 6)}
    assert all(done[running].request for running in good)
    assert messages is GROW or next(reversed(done)) is bad
    error = done[bad].prepared.error
    assert error.code == ("template_error" if messages is LOOP else "invalid_job")
    assert ("intake_s=4" if messages is LOOP else "intake_memory_mb=1024") in error.message
    desk.put(spec_of())
    assert wait_for(eventually, desk, 1)[0].request


PERSON = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


def test_a_schema_is_followed_from_where_the_log_ends(desk, eventually, tokenizer, monkeypatch):
    known = tokenizer.encode('{"name": "A')
    log = [chunk_payload(len(known), ["x"] * len(known), known, None).encode()]
    monkeypatch.setattr(token_log, "pages", lambda *_: [log])
    monkeypatch.setattr(record, "offset_in", lambda *_: len(known))
    desk.put(spec_of(structured_outputs={"json": PERSON}))
    desk.put(spec_of(structured_outputs={"json": PERSON}), offset=len(known))
    desk.put(spec_of())
    done = wait_for(eventually, desk, 3)
    assert sorted(each.request.constraint.taken for each in done if each.request.constraint) == [
        0,
        len(known),
    ]


def test_a_grammar_that_can_not_be_enforced_or_takes_too_much_fails_its_own_job(desk, eventually):
    wide = {"type": "object", "properties": {f"p{number}": {"type": "integer"} for number in range(3000)}}
    forms = ({"json": {"type": "array", "uniqueItems": True}}, {"json": wide}, {"regex": "("})
    bad = [desk.put(spec_of(structured_outputs=form), tenant="bad") for form in forms]
    good = desk.put(spec_of(), tenant="good")
    done = {admission.running: admission for admission in wait_for(eventually, desk, 4)}
    assert done[good].request
    errors = [done[running].prepared.error for running in bad]
    assert {error.code for error in errors} == {"invalid_job"}
    assert "structured_outputs: " in errors[0].message
    assert "uniqueItems" in errors[0].message
    assert all(done[running].request is None for running in bad)


def test_tenants_take_turns(open_desk, eventually, looping):
    desk = open_desk(looping, most_s=4.0)
    bad = [desk.put(spec_of(prompt=None, messages=LOOP), tenant="bad") for _ in range(3)]
    good = [desk.put(spec_of(prompt="x " * 200_000), tenant="good") for _ in range(2)]  # large: the slow lane
    order = [admission.running for admission in wait_for(eventually, desk, 5)]
    assert order.index(good[1]) < order.index(bad[2])


def test_a_place_that_is_killed_costs_nobody_anything(desk, eventually):
    desk.put(spec_of())
    assert wait_for(eventually, desk, 1)[0].request
    for place in places_of(desk):
        place.kill()
    desk.put(spec_of())
    assert wait_for(eventually, desk, 1)[0].request


def test_an_intake_process_that_is_killed_is_started_again(desk, eventually):
    os.kill(desk.places.process.pid, signal.SIGKILL)
    desk.put(spec_of())
    assert wait_for(eventually, desk, 1)[0].request


def test_jobs_wait_for_an_intake_process_that_can_not_start(open_desk, eventually, looping):
    desk, folder = open_desk(looping), Path(looping)
    away, first = folder.rename(folder.with_name("away")), desk.places.process.pid
    os.kill(first, signal.SIGKILL)
    desk.put(spec_of())
    eventually(lambda: desk.places.process.pid != first, 60)
    second = desk.places.process.pid
    eventually(lambda: desk.places.process.pid != second, 60)
    assert desk.taken() == []
    away.rename(folder)
    assert wait_for(eventually, desk, 1)[0].request


def test_intake_is_not_late_while_a_log_waits_for_redis(desk, eventually, redis, monkeypatch):
    tries, away = [], threading.Event()

    def pages(*args: Any) -> Any:
        tries.append(away.is_set())
        if away.is_set():
            raise BrokerUnavailable("away")
        return real(*args)

    real = token_log.pages
    monkeypatch.setattr(token_log, "pages", pages)
    away.set()
    desk.put(spec_of(), offset=3, job_id="waits")
    eventually(lambda: len(tries) > 2)
    with monkeypatch.context() as patience:
        patience.setattr(lanes, "GRACE_S", -60.0)  # any job that is being read would be late
        assert desk.intake.overdue_s() == 0.0
    redis.xadd(Tag("demo").out("waits"), {"event": chunk_payload(3, "abc", [5, 6, 7], None)}, id="3-0")
    away.clear()
    assert wait_for(eventually, desk, 1)[0].request.output_ids == [5, 6, 7]
    redis.delete(Tag("demo").out("waits"))


def test_a_record_that_did_not_come_with_its_claim_is_read_once_redis_answers(
    desk, eventually, redis, monkeypatch
):
    tries, away, key = [], threading.Event(), Tag("demo").job("large")

    def spec_in(*args: Any) -> bytes:
        tries.append(away.is_set())
        if away.is_set():
            raise BrokerUnavailable("away")
        return real(*args)

    real = record.spec_in
    monkeypatch.setattr(record, "spec_in", spec_in)
    away.set()
    spec = spec_of(prompt="A tuple is", metadata={"x": "x" * 500})
    redis.hset(key, "spec", spec)
    desk.put(None, job_id="large", spec_bytes=len(spec))
    eventually(lambda: len(tries) > 2)
    assert desk.taken() == []
    with monkeypatch.context() as patience:
        patience.setattr(lanes, "GRACE_S", -60.0)  # any job that is being read would be late
        assert desk.intake.overdue_s() == 0.0
    away.clear()
    assert wait_for(eventually, desk, 1)[0].job.max_tokens
    redis.delete(key)


def test_a_large_record_waits_for_no_neighbours_turn(desk, eventually, redis):
    key, spec = Tag("demo").job("large"), spec_of(prompt="a" * 4_000_000)
    redis.hset(key, "spec", spec)
    large, small = desk.put(None, job_id="large", spec_bytes=len(spec)), desk.put(spec_of())
    done = {admission.running: admission for admission in wait_for(eventually, desk, 2)}
    assert done[large].prepared.error.code == "context_length"
    assert done[small].request
    redis.delete(key)


@pytest.mark.parametrize("made", ["gone", "something else"])
def test_a_record_that_is_not_there_any_more_fails_alone(desk, eventually, redis, made):
    key = Tag("demo").job("was")
    if made == "something else":
        redis.set(key, "x")
    bad, good = desk.put(None, job_id="was", spec_bytes=9), desk.put(spec_of())
    done = {admission.running: admission for admission in wait_for(eventually, desk, 2)}
    assert done[bad].prepared.error.code == "invalid_job"
    assert done[good].request
    redis.delete(key)


def test_what_tells_a_service_to_stop_does_not_end_intake(desk, eventually):
    os.kill(desk.places.process.pid, signal.SIGTERM)
    desk.put(spec_of())
    assert wait_for(eventually, desk, 1)[0].request


BAD = {
    "no text": b"\xff\xfe",
    "no JSON": b"{",
    "nested": b'{"v":1,"model":"demo","messages":[{"role":"user","x":'
    + b"[" * 100_000
    + b"]" * 100_000
    + b"}]}",
    "no object": b"[]",
    "empty": b"",
    "a task's damaged message": json.dumps(
        {"v": 1, "model": "demo", "prompt": "x", "celery": '{"headers": {"id": "a", "argsrepr": 3}}'}
    ).encode(),
}


@pytest.mark.parametrize("spec", BAD.values(), ids=BAD.keys())
def test_a_record_that_can_not_be_read_fails_alone(desk, eventually, spec):
    bad, good = desk.put(spec), desk.put(spec_of())
    done = {admission.running: admission for admission in wait_for(eventually, desk, 2)}
    assert done[bad].prepared.error.code == "invalid_job"
    assert done[good].request


def test_a_prompt_beyond_the_context_is_refused_by_its_bytes(desk, eventually):
    desk.put(spec_of(prompt="a" * 4_000_000))
    desk.put(spec_of(prompt="a b " * CONTEXT))
    by_bytes, by_tokens = (admission.prepared.error for admission in wait_for(eventually, desk, 2))
    if "bytes" not in by_bytes.message:
        by_bytes, by_tokens = by_tokens, by_bytes
    assert by_bytes.code == by_tokens.code == "context_length"
    assert "4000000 bytes, at least" in by_bytes.message
    assert "tokens; demo takes at most 2048" in by_tokens.message


def test_a_log_is_read_page_by_page_and_resumed_where_it_ends(desk, eventually, redis, tokenizer):
    tag, ids = Tag("demo"), tokenizer.encode("the cat sat on the mat, ä日本 ") * 300
    stream = TextStream(tokenizer, ("never there",), 2)
    pieces, _ = stream.take(ids)
    for end in range(10, len(ids) + 1, 10):
        payload = chunk_payload(end, pieces[end - 10 : end], ids[end - 10 : end], None)
        redis.xadd(tag.out("long"), {"event": payload}, id=f"{end}-0")
    redis.hset(tag.job("long"), "offset", len(ids) // 10 * 10)
    whole = ids[: len(ids) // 10 * 10]
    assert len(list(token_log.pages(redis, tag, "long"))) >= 3
    desk.put(spec_of(stop=["never there"]), offset=len(whole), job_id="long")
    (done,) = wait_for(eventually, desk, 1)
    assert done.request.output_ids == whole
    assert done.prepared.replay.pieces == pieces[: len(whole)]
    expected = TextStream(tokenizer, ("never there",), 2)
    expected.take(whole)
    more = tokenizer.encode("日本 never there")
    assert done.texts[0].take(more) == expected.take(more)
    redis.delete(tag.out("long"), tag.job("long"))


@pytest.mark.parametrize("prompt_logprobs", [None, 2])
def test_a_job_whose_log_a_stop_string_ends_runs_for_its_prompt_alone(
    desk, eventually, redis, tokenizer, prompt_logprobs
):
    tag, ids = Tag("demo"), tokenizer.encode("the cat sat")
    pieces, stopped = TextStream(tokenizer, ("cat",), 0).take(ids)
    assert stopped
    ended = len(pieces)
    payload = chunk_payload(ended, pieces, ids[:ended], None)
    redis.xadd(tag.out("ended"), {"event": payload}, id=f"{ended}-0")
    redis.hset(tag.job("ended"), "offset", ended)
    desk.put(spec_of(stop=["cat"], prompt_logprobs=prompt_logprobs), offset=ended, job_id="ended")
    (done,) = wait_for(eventually, desk, 1)
    assert done.prepared.replay.stopped
    if prompt_logprobs is None:
        assert done.request is None
    else:
        asked = done.request
        assert (asked.output_ids, asked.params.max_tokens, asked.prompt_logprobs) == ([], 0, 2)
    redis.delete(tag.out("ended"), tag.job("ended"))


def test_a_log_that_lacks_tokens_fails_its_job(desk, eventually, redis):
    redis.hset(Tag("demo").job("short"), "offset", 5)
    desk.put(spec_of(), offset=5, job_id="short")
    (done,) = wait_for(eventually, desk, 1)
    assert "holds 0 tokens, but 5 were written" in done.prepared.error.message
    redis.delete(Tag("demo").job("short"))


def test_a_log_whose_tail_redis_lost_is_resumed_where_it_ends_now(desk, eventually, redis):
    tag = Tag("demo")
    redis.xadd(tag.out("lost"), {"event": chunk_payload(3, "abc", [5, 6, 7], None)}, id="3-0")
    redis.hset(tag.job("lost"), "offset", 3)
    desk.put(spec_of(), offset=9, job_id="lost")
    (done,) = wait_for(eventually, desk, 1)
    assert (done.request.output_ids, done.prepared.replay.logged) == ([5, 6, 7], 3)
    redis.delete(tag.out("lost"), tag.job("lost"))
