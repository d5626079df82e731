"""Chats as OpenAI's clients write them: what a model can't read is refused where it is asked for, by name."""

from typing import Any

import pytest

from headrace import InvalidJob, Job, Webhook

CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def message(**fields: Any) -> Any:
    job = Job.make(model="m", messages=[fields])
    assert job.messages is not None
    return job.messages[0]


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([{"type": "text", "text": "hi"}], "hi"),
        ([{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}, "c"], "a\nb\nc"),
        ([{"text": "no type"}], "no type"),
        ([{"type": "refusal", "refusal": "no"}], "no"),
        ([{"type": "text", "text": ""}], ""),
    ],
)
def test_text_parts_become_one_text(parts: list[object], text: str) -> None:
    assert message(role="user", content=parts).content == text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{"type": "image_url", "image_url": {"url": "x"}}], "part 0 is of type 'image_url'"),
        (["hi", {"type": "input_audio", "input_audio": {}}], "part 1 is of type 'input_audio'"),
        ([{"type": "video_url"}], "part 0 is of type 'video_url': models here read only text"),
        ([{"type": "file"}], "part 0 is of type 'file'"),
        ([{"type": "text"}], "part 0 must have a string under 'text'"),
        ([{"type": "text", "text": None}], "part 0 must have a string under 'text'"),
        ([7], "part 0 must be a string or a dict with a type"),
        ([{"type": 7}], "part 0 must be a string or a dict with a type"),
        ([], "has no part"),
        ({"type": "text", "text": "x"}, "must be a string"),
        (7, "must be a string"),
        (["\ud800"], "a lone surrogate"),
    ],
)
def test_other_parts_are_refused_by_name(content: Any, words: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        message(role="user", content=content)
    assert caught.value.field == "messages.0.content"
    assert words in caught.value.reason


@pytest.mark.parametrize("role", ["system", "developer", "user", "tool", "function"])
@pytest.mark.parametrize("content", [{}, {"content": None}])
def test_content_may_not_be_missing(role: str, content: dict[str, None]) -> None:
    for extra in ({}, {"tool_calls": [CALL]}):
        with pytest.raises(InvalidJob, match=r"messages\.0: content is missing") as caught:
            message(role=role, **content, **extra)
        assert caught.value.field == "messages.0"


def test_an_assistants_content_may_be_null_beside_what_it_called() -> None:
    assert message(role="assistant", content=None, tool_calls=[CALL]).content is None
    assert message(role="assistant", tool_calls=[CALL]).content is None
    for empty in ({}, {"tool_calls": []}, {"tool_calls": None}):
        with pytest.raises(InvalidJob, match="content is missing"):
            message(role="assistant", content=None, **empty)


@pytest.mark.parametrize("role", ["robot", "", "User", "user ", None, 7])
def test_a_role_that_nobody_has_is_refused_with_those_there_are(role: Any) -> None:
    with pytest.raises(InvalidJob) as caught:
        message(role=role, content="x")
    assert caught.value.field == "messages.0.role"
    if isinstance(role, str):
        assert "must be one of system, developer, user, assistant" in caught.value.reason


@pytest.mark.parametrize("content", ["x", None])
def test_a_message_without_a_role_is_refused(content: str | None) -> None:
    with pytest.raises(InvalidJob, match=r"messages\.0\.role: is missing"):
        message(content=content)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Webhook(url="https://x", secret="hunter2"), "webhook.secret"),
        (lambda: Webhook(url="https://u:hunter2@x"), "webhook.url"),
        (lambda: Webhook(url="https://x", hunter2=1), "webhook.hunter2"),
        (Webhook, "webhook.url"),
        (lambda: Job(model="m", prompt="x", tenant="hunter2 @"), "tenant"),
        (lambda: Job(model="m", prompt=["hunter2"]), "prompt"),
    ],
)
def test_what_is_made_by_hand_raises_what_enqueue_raises(make: Any, field: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        make()
    assert caught.value.field == field
    assert "pydantic" not in str(caught.value)
    assert "hunter2" not in caught.value.reason or field == "tenant"
    assert caught.value.__suppress_context__


NEVER = [
    *("https://bücher.example/x", "https://user:pw@host.example/", "https://host.example:99999/"),
    *("https://[::1/", "https://host.example/ä", "https://-bad-.example/", "https:///nohost", "https://"),
    *("https://host.example/#x y", "https://host.example:0/", "https://a.-b.example/", "https://256.1.1.1/"),
    *("https://host.example:x/", "https://a b/", "https://host..example/", "ftp://host.example/", "//host/x"),
    *(
        "https://[::g]/",
        "https://1.2.3.4.5/",
        "host.example",
        "",
        "https://@host/",
        "https://" + "a" * 64 + ".b/",
    ),
]


@pytest.mark.parametrize("url", NEVER)
def test_a_webhook_that_can_never_be_sent_is_refused(url: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        Job.make(model="m", prompt="x", webhook={"url": url})
    assert caught.value.field == "webhook.url"


@pytest.mark.parametrize(
    "url",
    [
        *(
            "HTTPS://host.example/x",
            "https://HOST.example/x",
            "https://host.example/%C3%A4",
            "http://127.1:80",
        ),
        *(
            "https://xn--bcher-kva.example/",
            "https://[::1]:8080/a?b=c@d",
            "https://host_a.example.",
            "http://h",
        ),
    ],
)
def test_a_webhook_that_can_be_sent_is_accepted(url: str) -> None:
    assert Webhook(url=url).url == url
