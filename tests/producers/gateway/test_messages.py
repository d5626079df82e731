"""Messages, asked for with Anthropic's own client, which checks every answer's type."""

import importlib

import pytest

pytestmark = [pytest.mark.serial, pytest.mark.xdist_group("gateway"), pytest.mark.usefixtures("worker")]

MESSAGES = [{"role": "user", "content": "What does str.split do?"}]
ASKED = {
    "model": "demo",
    "max_tokens": 24,
    "messages": MESSAGES,
    "extra_body": {"seed": 1, "ignore_eos": True},
}


@pytest.fixture(scope="module")
def anthropic():
    """It takes a second to import, in every process that collects tests."""
    return importlib.import_module("anthropic")


@pytest.fixture
def client(anthropic, shared_gateway):
    """Anthropic's client, which trusts no answer."""
    with anthropic.Anthropic(
        base_url=shared_gateway.url, api_key="-", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def test_a_message_is_the_same_whole_and_streamed(client):
    whole = client.messages.create(**ASKED)
    assert (whole.role, whole.stop_reason, whole.usage.output_tokens) == ("assistant", "max_tokens", 24)
    with client.messages.stream(**ASKED) as stream:
        assert "".join(stream.text_stream) == whole.content[0].text
        last = stream.get_final_message()
    assert (last.stop_reason, last.usage.output_tokens) == ("max_tokens", 24)
    read = whole.usage.input_tokens + whole.usage.cache_read_input_tokens
    assert client.messages.count_tokens(model="demo", messages=MESSAGES).input_tokens == read
    brief = client.messages.create(**ASKED, system="Be brief.", stop_sequences=["e"])
    assert "e" not in brief.content[0].text


def test_a_prompt_that_is_longer_than_the_context_is_counted(client, http):
    def tokens(words: int) -> int:
        messages = [{"role": "user", "content": "x " * words + "."}]
        return client.messages.count_tokens(model="demo", messages=messages).input_tokens

    ten, twenty = tokens(10), tokens(20)
    assert tokens(20_000) == ten + (twenty - ten) // 10 * 19_990
    assert tokens(20_000) > http.get("/v1/models/demo").json()["max_model_len"]


@pytest.mark.parametrize(
    ("wrong", "kind", "named"),
    [
        ({"model": "none-such"}, "NotFoundError", "none-such"),
        ({"messages": []}, "BadRequestError", "messages"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "BadRequestError", "tools"),
        ({"messages": [{"role": "user", "content": "x " * 9000}]}, "BadRequestError", "tokens"),
    ],
    ids=["model", "messages", "tools", "length"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_is_the_clients_own_exception(anthropic, client, wrong, kind, named, stream):
    with pytest.raises(getattr(anthropic, kind), match=named) as raised:
        client.messages.create(**ASKED | wrong, stream=stream)
    assert raised.value.body["type"] == "error"
