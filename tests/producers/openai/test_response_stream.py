"""Response objects and events, against OpenAI's own types."""

from typing import Any

import pytest
from openai.types import responses
from openai.types.responses import ResponseStreamEvent
from tests.support.openai_types import conforms

from headrace import Chunk, HeadraceError, JobResult
from headrace.producers.openai.responses.body import Response
from headrace.producers.openai.responses.request import LOGPROBS, response_request
from headrace.producers.openai.responses.stream import ResponseStream
from headrace.schemas.answers import AnswerFormat
from headrace.schemas.errors import BrokerUnavailable, JobCancelled, JobExpired, JobFailed
from headrace.schemas.events import Timings

Event = dict[str, Any]


def of(result: JobResult, **asked: object) -> Response:
    body = {"model": "m", "input": "Hello", "include": [LOGPROBS], **asked}
    return Response(result.job_id, 7, response_request(body).echo)


def replay(response: Response, chunks: list[Chunk], ending: JobResult | HeadraceError) -> list[Event]:
    stream = ResponseStream(response)
    events = [*stream.start(), *(event for chunk in chunks for event in stream.chunk(chunk))]
    return events + (stream.end(ending) if isinstance(ending, JobResult) else stream.failed(ending))


def test_a_response_has_openais_type_in_every_status(result: JobResult) -> None:
    response = of(result, background=True, metadata={"a": "b"}, user="u", service_tier="flex")
    timed = result.model_copy(update={"timings": Timings(total_s=2.5)})
    told = [
        response.pending("queued"),
        response.pending("in_progress"),
        response.ended(timed),
        response.ended(timed.model_copy(update={"finish_reason": "length"})),
        response.failed(JobFailed("id", "crashed", "secret")),
        response.failed(JobFailed("id", "context_length", "too long")),
        response.failed(JobExpired("id"), "hé"),
        response.failed(JobCancelled("id"), "hé"),
    ]
    read = [conforms(responses.Response, body) for body in told]
    assert [each.status for each in read] == [
        *("queued", "in_progress", "completed", "incomplete", "failed", "failed", "failed", "cancelled")
    ]
    completed, incomplete = read[2:4]
    assert (completed.output_text, completed.completed_at, completed.usage.total_tokens) == ("héy", 9, 5)
    assert completed.output[0].content[0].logprobs[0].bytes == [104, 195, 169]
    assert incomplete.incomplete_details.reason == "max_output_tokens"
    assert [each.error.code for each in read[4:7]] == ["server_error", "invalid_prompt", "server_error"]
    assert "secret" not in read[4].error.message
    assert [each.output_text for each in read[6:]] == ["hé", "hé"]


def test_a_stream_has_openais_events_in_their_order(result: JobResult, chunks: list[Chunk]) -> None:
    events = replay(of(result), chunks, result)
    read = [conforms(ResponseStreamEvent, event) for event in events]
    assert [(event.sequence_number, event.type.removeprefix("response.")) for event in read] == [
        (0, "created"),
        (1, "in_progress"),
        (2, "output_item.added"),
        (3, "content_part.added"),
        (4, "output_text.delta"),
        (5, "output_text.delta"),
        (7, "output_text.done"),
        (8, "content_part.done"),
        (9, "output_item.done"),
        (10, "completed"),
    ]
    assert read[-1].response.output_text == result.text
    assert "".join(event.delta for event in read[4:6]) == result.text
    assert [token for event in events[4:6] for token in event["logprobs"]] == events[6]["logprobs"]


def test_numbers_do_not_depend_on_how_the_log_is_cut(result: JobResult) -> None:
    plain = result.model_copy(update={"logprobs": None, "text": "abcd"})
    pieces = [Chunk(offset=at, text=text, token_ids=(at,)) for at, text in enumerate("abc", 1)]
    held = Chunk(offset=3, text="d")
    one = Chunk(offset=3, text="abc", token_ids=(1, 2, 3))
    finely = replay(of(result), [*pieces, held], plain)
    coarsely = replay(of(result), [one, held], plain)

    def text_up_to(events: list[Event], number: int) -> str:
        deltas = [event for event in events if event["type"].endswith("delta")]
        return "".join(event["delta"] for event in deltas if event["sequence_number"] <= number)

    for event in coarsely:
        assert text_up_to(finely, event["sequence_number"]) == text_up_to(coarsely, event["sequence_number"])
    assert finely[-5:] == coarsely[-5:]
    for events in (finely, coarsely):
        numbers = [event["sequence_number"] for event in events]
        assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        (JobFailed("id", "crashed", "why"), "response.failed", "failed"),
        (JobExpired("id"), "response.failed", "failed"),
        (JobCancelled("id"), "response.incomplete", "cancelled"),
    ],
)
@pytest.mark.parametrize("begun", [False, True])
def test_a_response_without_an_answer_ends_with_its_own_event(
    result: JobResult, chunks: list[Chunk], begun: bool, error: HeadraceError, kind: str, status: str
) -> None:
    events = replay(of(result), chunks if begun else [], error)
    for event in events:
        conforms(ResponseStreamEvent, event)
    last = events[-1]
    assert (last["type"], last["response"]["status"]) == (kind, status)
    assert last["sequence_number"] > events[-2]["sequence_number"]
    assert len(last["response"]["output"]) == begun


def test_a_stream_that_is_interrupted_says_so_and_leaves_the_response_open(
    result: JobResult, chunks: list[Chunk]
) -> None:
    stream = ResponseStream(of(result))
    events = [*stream.start(), *stream.chunk(chunks[0]), *stream.interrupted(BrokerUnavailable("redis://x"))]
    last = conforms(ResponseStreamEvent, events[-1])
    assert (last.type, last.code, "redis" in last.message) == ("error", "broker_unavailable", False)
    assert last.sequence_number <= events[-2]["sequence_number"]


def test_an_answer_without_a_chunk_has_all_its_events(result: JobResult) -> None:
    empty = result.model_copy(update={"text": "", "token_ids": (), "logprobs": None})
    numbers = [event["sequence_number"] for event in replay(of(result), [], empty)]
    assert numbers == [0, 1, 2, 3, 5, 6, 7, 8]


PIECES = (
    *(
        "Hm",
        ".\n</thi",
        "nk>\n\nLet me",
        " look.",
        "\n\n<tool",
        '_call>\n{"name": "f", "arg',
        'uments": {"x": ',
        '"é"}',
    ),
    *("}\n</tool_call>", '\n<tool_call>{"name": "g"}', "</tool", "_call>"),
)


def test_functions_and_reasoning_are_items_whose_events_do_not_depend_on_how_the_log_is_cut(
    result: JobResult,
) -> None:
    known = AnswerFormat(tools="hermes", reasoning="think", begun=True)
    function = {"type": "function", "name": "f", "parameters": {}}
    response = of(result, tools=[function], tool_choice={"type": "function", "name": "f"}, include=[])
    said = result.model_copy(update={"format": known, "text": "".join(PIECES), "logprobs": None}).read()

    def events(size: int) -> list[Event]:
        chunks = []
        for start in range(0, len(PIECES), size):
            some = PIECES[start : start + size]
            chunks.append(
                Chunk(
                    offset=start + len(some),
                    text="".join(some),
                    token_ids=tuple(range(len(some))),
                    lengths=tuple(map(len, some[:-1])),
                    format=None if start else known,
                )
            )
        return replay(response, chunks, said)

    told = events(1)
    assert told == events(2) == events(5) == events(100)
    for event in told:
        conforms(ResponseStreamEvent, event)
    numbers = [event["sequence_number"] for event in told]
    assert numbers == sorted(set(numbers))
    assert [event["type"].removeprefix("response.") for event in told if "item" in event] == [
        *("output_item.added", "output_item.done") * 4
    ]
    last = conforms(responses.Response, told[-1]["response"])
    assert told[-1]["response"]["output"] == [
        event["item"] for event in told if event["type"] == "response.output_item.done"
    ]
    assert [item.type for item in last.output] == ["reasoning", "message", "function_call", "function_call"]
    assert (last.output[0].content[0].text, last.output_text) == ("Hm.", "Let me look.")
    assert [(item.name, item.arguments) for item in last.output[2:]] == [("f", '{"x": "é"}'), ("g", "{}")]
    assert [item.call_id for item in last.output[2:]] == [call.id for call in said.tool_calls or ()]
    assert last.tools[0].name == last.tool_choice.name == "f"
