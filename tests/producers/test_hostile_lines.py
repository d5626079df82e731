"""Whatever a line of a batch file or an item of `enqueue_many` holds: it has an answer, no other is lost."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace import Client, HeadraceError, InvalidJob, Job, JobHandle, JobsRefused
from headrace.producers.batch_lines import parse_line

from .test_batch import answers, run

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
CHAT = '"messages": [{"role": "user", "content": "hi"}]'


def deep(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


HOSTILE: dict[str, tuple[str | bytes, str]] = {
    "half a character": ('{"prompt": "\\ud800"}', "prompt"),
    "half a character in a message": ('{"messages": [{"role": "user", "content": "\\ud83d"}]}', "messages.0"),
    "half a character for a name": ('{"prompt": "x", "\\ud800": 1}', ""),
    "a schema 300 deep": (f'{{{CHAT}, "tools": [{deep(300)}]}}', "tools.0"),
    "a schema 100,000 deep": (f'{{{CHAT}, "tools": [{deep(100_000)}]}}', "line"),
    "a number for a list, 900 deep": (
        '{"prompt": "x", "temperature": ' + "[" * 900 + "]" * 900 + "}",
        "temperature",
    ),
    "a huge number": ('{"prompt": "x", "seed": ' + "9" * 4000 + "}", "seed"),
    "a number too long to be read": ('{"prompt": "x", "seed": ' + "9" * 5000 + "}", "line"),
    "a huge number in a schema": (f'{{{CHAT}, "tools": [{{"a": {"9" * 4000}}}]}}', "tools.0"),
    "NaN": ('{"prompt": "x", "temperature": NaN}', "temperature"),
    "infinity in a schema": (f'{{{CHAT}, "tools": [{{"a": -Infinity}}]}}', "tools.0"),
    "a float too large": ('{"prompt": "x", "temperature": 1e999}', "temperature"),
    "a name twice": ('{"prompt": "x", "max_tokens": 1, "max_tokens": 2}', "max_tokens"),
    "a name twice, further in": (f'{{{CHAT}, "tools": [{{"a": 1, "a": 2}}]}}', "a"),
    "bytes that are no text": (b'{"prompt": "\xff\xfe"}', "line"),
    "null bytes": (b"\0\0\0\0", "line"),
    "a text": ('"x"', "line"),
    "null": ("null", "line"),
    "a wire's own field": ('{"prompt": "x", "celery": "{}"}', "celery"),
    "a wire's own version": ('{"prompt": "x", "v": 99}', "v"),
    "a name of Python's": ('{"prompt": "x", "cls": 1, "self": 2}', "cls"),
    "an address for an endpoint": (f'{{"url": "https://u:{SECRET}@host/v1", "body": {{}}}}', "url"),
    "a list for an endpoint": ('{"url": ' + "[" * 900 + "]" * 900 + ', "body": {}}', "url"),
    "metadata that are none": (
        '{"url": "/v1/completions", "body": {"prompt": "x", "user": "u", "metadata": 5}}',
        "metadata",
    ),
    "a user that is none": ('{"url": "/v1/completions", "body": {"prompt": "x", "user": {}}}', "user"),
    "a list for an id": ('{"prompt": "x", "custom_id": [1]}', "custom_id"),
    "a secret for a webhook": (f'{{"prompt": "x", "webhook": "https://u:{SECRET}@host"}}', "webhook"),
    "secrets in a list": (f'{{"prompt": "x", "webhook": ["{SECRET}"]}}', "webhook"),
    "a secret for a field": (f'{{"prompt": "x", "{SECRET}": 1}}', ""),
    "a body that is deep": (
        '{"url": "/v1/chat/completions", "body": ' + deep(900) + "}",
        "a",
    ),
}


@pytest.mark.parametrize(("line", "field"), HOSTILE.values(), ids=HOSTILE)
def test_a_line_that_is_none_is_refused_by_its_field(line: str | bytes, field: str) -> None:
    text = line.encode() if isinstance(line, str) else line
    parsed = parse_line(7, text, {"model": "m"}, "file")
    assert isinstance(parsed.job, InvalidJob)
    assert parsed.custom_id == "line-7"
    assert parsed.job.field.startswith(field)
    assert SECRET not in str(parsed.job)
    assert len(str(parsed.job)) < 500


@pytest.mark.parametrize("given", ["\ud800", "with\0null", "x" * 100_000, 7, -1.5])
async def test_an_answer_has_the_lines_own_id_whatever_that_is(
    redis_url: str,
    working: None,
    tmp_path: Path,
    given: Any,
) -> None:
    requests, responses = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    requests.write_text(json.dumps({"custom_id": given, "prompt": "x"}) + "\n")
    for skipped in (0, 1):
        tally = await run(redis_url, requests, responses)
        assert (tally.failed, tally.skipped) == (0, skipped)
    assert list(answers(responses)) == [str(given)]


async def test_every_hostile_line_is_answered_beside_the_good_ones(
    redis_url: str,
    working: None,
    tmp_path: Path,
) -> None:
    requests, responses = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    good = b'{"custom_id": "good %d", "prompt": "x"}'
    lines = [line.encode() if isinstance(line, str) else line for line, _ in HOSTILE.values()]
    both = [text for number, line in enumerate(lines) for text in (line, good % number)]
    requests.write_bytes(b"\n".join(both) + b"\n")
    tally = await run(redis_url, requests, responses)
    found = answers(responses)
    assert (tally.succeeded, tally.failed) == (len(lines), len(lines))
    assert len(found) == len(both)
    assert all(found[f"good {number}"]["error"] is None for number in range(len(lines)))
    assert SECRET not in responses.read_text()


def test_each_item_is_an_outcome_whatever_it_is(client: Client) -> None:
    recursive: list[Any] = []
    recursive.append(recursive)
    changed = Job.make(model="m", messages=[{"role": "user", "content": "x"}], tools=[{"name": "f", "a": 1}])
    assert changed.tools is not None
    changed.tools[0]["a"] = "\ud800"
    bad: list[Any] = [
        None,
        7,
        "prompt",
        [],
        {1: 2},
        {"prompt": "\ud800", "model": "m"},
        {"messages": [{"role": "user", "content": "x", "y": recursive}], "model": "m"},
        {"prompt": "x", "model": "m", "celery": "{}"},
        {"prompt": "x", "model": "m", "cls": 1},
        {"prompt": "x", "model": "m", "top_k": -(10**5000)},
        {"prompt": "x", "model": "m", "temperature": recursive},
        changed,
    ]
    good = {"prompt": "x", "model": "m"}
    with pytest.raises(JobsRefused) as caught:
        client.enqueue_many([item for each in bad for item in (each, good)])
    outcomes = caught.value.outcomes
    assert all(isinstance(outcome, InvalidJob) for outcome in outcomes[::2])
    assert all(isinstance(outcome, JobHandle) for outcome in outcomes[1::2])


def test_an_iterable_that_breaks_loses_no_handle(client: Client) -> None:
    def jobs() -> Iterator[dict[str, str]]:
        yield {"prompt": "x", "model": "m"}
        raise KeyError("of the caller's own")

    with pytest.raises(JobsRefused, match="the iterable raised KeyError") as caught:
        client.enqueue_many(jobs())
    first, last = caught.value.outcomes
    assert isinstance(first, JobHandle)
    assert isinstance(last, HeadraceError)
    assert isinstance(last.__cause__, KeyError)
