"""Calls of tools and reasoning over HTTP: read by the clients' own packages, resumed at every event."""

import importlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from headrace import Client
from headrace.schemas.events import End, JobState, Output, Usage, chunk_payload
from headrace.schemas.scripts import Segment, advance, finish, run

from ...support.processes import kill_engine_of
from ...support.tool_models import tool_model
from ...support.waiting import wait_until
from ..conftest import MODEL, RunningJob, ScriptedWorker
from .test_chat import events_of

pytestmark = [pytest.mark.serial, pytest.mark.xdist_group("gateway")]

FORMAT = {"tools": "hermes", "reasoning": "think", "begun": True}
PIECES = (
    *(
        "Hm",
        ".",
        "\n</thi",
        "nk>\n\n",
        "Let me",
        " look.",
        "\n\n<tool",
        "_call>\n",
        '{"name": "wea',
        'ther", "arg',
    ),
    *(
        'uments": {"city"',
        ': "Zü',
        'rich", "days',
        '": 3}',
        "}\n</tool_call>",
        "\n<tool_call>",
        '{"name": "now"',
    ),
    *(', "arguments": {}}', "</tool", "_call>"),
)
FUNCTIONS = [
    {"name": "weather", "description": "The weather", "parameters": {"type": "object", "properties": {}}},
    {"name": "now", "parameters": {"type": "object"}},
]
TOOLS = [{"type": "function", "function": function} for function in FUNCTIONS]
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Weather?"}], "tools": TOOLS}
ARGUMENTS = ['{"city": "Zürich", "days": 3}', "{}"]


def speak(job: RunningJob, pieces: Sequence[str] = PIECES, answer_format: dict[str, Any] = FORMAT) -> None:
    """Publish a text, a token for each piece, and end the job."""
    for at, piece in enumerate(pieces):
        payload = chunk_payload(at + 1, [piece], [at], None, answer_format if at == 0 else None)
        segment = Segment(job.id, job.claimed.fence, at, at + 1, payload)
        (answer,) = run(job.redis, advance(job.tag, 60_000, [segment]))
        assert answer.status == "ok"
    count = len(pieces)
    output = Output(
        text="".join(pieces),
        token_ids=tuple(range(count)),
        finish_reason="stop",
        usage=Usage(prompt_tokens=2, completion_tokens=count),
        format=answer_format,
    )
    end = End(offset=count, end=JobState.SUCCEEDED, finish_reason="stop")
    run(job.redis, finish(job.tag, Segment(job.id, job.claimed.fence, count, count, ""), end, output))


@pytest.fixture
def openai_client(shared_gateway: Any) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=shared_gateway.base_url, api_key="-", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def spoken(response: httpx.Response) -> list[tuple[str | None, str]]:
    assert response.status_code == 200, response.read()
    return events_of(response)


def test_a_chat_calls_tools(openai_client: OpenAI, scripted: ScriptedWorker, http: httpx.Client) -> None:
    with openai_client.chat.completions.stream(**CHAT, store=True) as stream:
        speak(scripted.start())
        final = stream.get_final_completion()
    whole = openai_client.chat.completions.retrieve(final.id)
    for completion in (final, whole):
        (choice,) = completion.choices
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me look.")
        assert choice.message.model_extra["reasoning"] == "Hm."
        assert [call.function.name for call in choice.message.tool_calls] == ["weather", "now"]
        assert [call.function.arguments for call in choice.message.tool_calls] == ARGUMENTS
    told = [call.id for call in whole.choices[0].message.tool_calls]
    assert [call.id for call in final.choices[0].message.tool_calls] == told
    result = http.get(f"/v1/jobs/{final.id.removeprefix('chatcmpl-')}").json()["result"]
    assert (result["content"], result["reasoning"], result["text"]) == (
        "Let me look.",
        "Hm.",
        "".join(PIECES),
    )
    assert [call["id"] for call in result["tool_calls"]] == told


def test_a_chat_goes_on_after_any_event(scripted: ScriptedWorker, http: httpx.Client) -> None:
    with http.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True, "store": True}) as response:
        speak(scripted.start())
        events = spoken(response)
    url = f"/v1/chat/completions/{json.loads(events[0][1])['id']}?stream=true"
    for at, (event_id, _) in enumerate(events):
        if event_id is not None:
            with http.stream("GET", url, headers={"last-event-id": event_id}) as response:
                assert spoken(response) == events[at + 1 :]


def test_a_response_calls_functions(
    openai_client: OpenAI, scripted: ScriptedWorker, http: httpx.Client
) -> None:
    functions = [{"type": "function", **function} for function in FUNCTIONS]
    asked = {"model": MODEL, "input": "Weather?", "tools": functions}
    with openai_client.responses.stream(**asked) as stream:
        speak(scripted.start())
        final = stream.get_final_response()
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call", "function_call"]
    assert (final.status, final.output_text) == ("completed", "Let me look.")
    assert [item.arguments for item in final.output[2:]] == ARGUMENTS
    url = f"/v1/responses/{final.id}"
    stored = http.get(url).json()["output"]
    assert [item["id"] for item in stored] == [item.id for item in final.output]
    with http.stream("GET", url, params={"stream": "true"}) as response:
        events = spoken(response)
    assert json.loads(events[-1][1])["response"]["output"] == stored
    numbers = [int(str(event_id)) for event_id, _ in events]
    assert numbers == sorted(set(numbers))
    for at, number in enumerate(numbers):
        with http.stream("GET", url, params={"stream": "true", "starting_after": number}) as response:
            assert spoken(response) == events[at + 1 :]
    outputs = [
        {"type": "function_call_output", "call_id": item.call_id, "output": "21"} for item in final.output[2:]
    ]
    again = {"model": MODEL, "input": outputs, "previous_response_id": final.id, "tools": functions}
    with openai_client.responses.stream(**again) as stream:
        job = scripted.start()
        speak(job, ["Fine."], {"tools": "hermes"})
        assert stream.get_final_response().output_text == "Fine."
    spec = json.loads(scripted.redis.hget(scripted.tag.job(job.id), "spec"))
    assert [message["role"] for message in spec["messages"]] == ["user", "assistant", "tool", "tool"]
    assert [call["id"] for call in spec["messages"][1]["tool_calls"]] == [o["call_id"] for o in outputs]


def test_a_message_uses_tools(shared_gateway: Any, scripted: ScriptedWorker, http: httpx.Client) -> None:
    anthropic = importlib.import_module("anthropic")
    tools = [{"name": "weather", "input_schema": {"type": "object"}}, {"name": "now", "input_schema": {}}]
    asked = {"model": MODEL, "max_tokens": 99, "messages": [{"role": "user", "content": "?"}], "tools": tools}
    with (
        anthropic.Anthropic(base_url=shared_gateway.url, api_key="-", max_retries=0) as client,
        client.messages.stream(**asked, extra_headers={"idempotency-key": "tools"}) as stream,
    ):
        speak(scripted.start())
        final = stream.get_final_message()
    assert final.stop_reason == "tool_use"
    assert [block.type for block in final.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert (final.content[0].thinking, final.content[1].text) == ("Hm.", "Let me look.")
    assert [block.input for block in final.content[2:]] == [json.loads(given) for given in ARGUMENTS]
    again = asked | {"stream": True}

    def read(**more: str) -> list[tuple[str | None, str]]:
        headers = {"idempotency-key": "tools", **more}
        with http.stream("POST", "/v1/messages", json=again, headers=headers) as response:
            return spoken(response)

    events = read()
    for at, (event_id, _) in enumerate(events):
        if event_id is not None:
            assert read(**{"last-event-id": event_id}) == events[at + 1 :]


def test_a_native_stream_and_the_clients_say_the_same_from_any_token(
    scripted: ScriptedWorker, http: httpx.Client, jobs: Client
) -> None:
    handle = jobs.enqueue(model=MODEL, messages=CHAT["messages"], tools=TOOLS)
    speak(scripted.start())
    whole = list(handle.stream())
    result = handle.result()
    assert "".join(chunk.content or "" for chunk in whole) == result.content
    assert "".join(chunk.reasoning or "" for chunk in whole) == result.reasoning
    deltas = [delta for chunk in whole for delta in chunk.tool_calls or ()]
    assert [delta.id for delta in deltas if delta.id] == [call.id for call in result.tool_calls or ()]
    assert [
        "".join(delta.function.arguments for delta in deltas if delta.index == at) for at in (0, 1)
    ] == ARGUMENTS
    for offset in range(len(PIECES)):
        assert list(handle.stream(from_offset=offset)) == whole[offset:]
    with http.stream("GET", f"/v1/jobs/{handle.id}/stream") as response:
        events = [json.loads(data) for _, data in spoken(response)]
    assert events[:-1] == [
        {"type": "chunk", **chunk.model_dump(mode="json", exclude_none=True, exclude={"lengths", "format"})}
        for chunk in whole
    ]
    assert events[-1]["finish_reason"] == "tool_calls"


@pytest.fixture
def tooled(stack_redis: Any, forkserver: Any, tmp_path: Path) -> Iterator[Path]:
    """A worker with the built-in model and a chat template that shows tools; gives the file that slows it."""
    with tool_model(stack_redis.url, forkserver, tmp_path / "tooled") as step_s:
        yield step_s


def test_a_call_whose_worker_is_killed_goes_on_byte_for_byte(
    tooled: Path, http: httpx.Client, jobs: Client
) -> None:
    words = {"type": "array", "minItems": 20, "maxItems": 20, "items": {"enum": ["alpha", "beta"]}}
    schema = {"type": "object", "properties": {"words": words}, "required": ["words"]}
    function = {"name": "say", "parameters": schema | {"additionalProperties": False}, "strict": True}
    asked = CHAT | {"model": "tooled", "seed": 1, "stream": True, "store": True, "tool_choice": "required"}
    asked |= {"tools": [{"type": "function", "function": function}], "parallel_tool_calls": False}

    def arguments(events: list[tuple[str | None, str]]) -> tuple[str, str]:
        read = [json.loads(data) for _, data in events if data != "[DONE]"]
        deltas = [choice["delta"] for event in read for choice in event["choices"]]
        calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
        return "".join(call["function"]["arguments"] for call in calls), read[-1]["choices"][0][
            "finish_reason"
        ]

    with http.stream("POST", "/v1/chat/completions", json=asked) as response:
        undisturbed, reason = arguments(spoken(response))
    assert (len(json.loads(undisturbed)["words"]), reason) == (20, "tool_calls")
    tooled.write_text("0.05")
    with http.stream("POST", "/v1/chat/completions", json=asked) as response:
        lines = response.iter_lines()
        first = json.loads(next(line for line in lines if line.startswith("data: "))[6:])
        job = jobs.job(first["id"].removeprefix("chatcmpl-"))
        wait_until(lambda: job.status().offset >= 30)
        kill_engine_of(job, jobs)
        assert not job.status().state.terminal
        tooled.unlink()
        for _ in lines:
            pass
    url = f"/v1/chat/completions/{first['id']}?stream=true"
    with http.stream("GET", url) as response:
        again = spoken(response)
    assert arguments(again) == (undisturbed, "tool_calls")
    wait_until(lambda: any(each.model == "tooled" for each in jobs.workers()))
