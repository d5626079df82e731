"""Embeddings: through the client, the gateway and batches, equal to transformers' hidden states."""

import json
import math
from functools import cache

import numpy as np
import pytest
import torch
from openai import OpenAI

from headrace import AsyncClient, Client, InvalidJob
from headrace.schemas.embed import from_base64
from headrace.schemas.events import JobState
from headrace.workers.models import resolve_model

from ...support.processes import kill_engine_of
from ...support.waiting import wait_until
from .test_batches import answers, ended, submit
from .test_chat import lenient
from .test_requests import error_of

pytestmark = [pytest.mark.serial, pytest.mark.xdist_group("gateway"), pytest.mark.usefixtures("worker")]

URL = "/v1/embeddings"
TEXTS = ["What does str.split do?", "日本", "def f(a):\n    return a\n" * 40]


@pytest.fixture
def client(shared_gateway):
    """OpenAI's client, which trusts no answer."""
    with OpenAI(
        base_url=shared_gateway.base_url, api_key="-", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


@cache
def transformers_of():
    from transformers import AutoModel, AutoTokenizer

    folder = resolve_model("demo")
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    return AutoTokenizer.from_pretrained(folder), model


@cache
def expected(text: str, pooling: str = "last", dimensions: int | None = None):
    tokenizer, model = transformers_of()
    with torch.inference_mode():
        states = model(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0].numpy()
    vector = (states[-1] if pooling == "last" else states.mean(0))[:dimensions]
    return vector / np.linalg.norm(vector)


def assert_same(vectors, wanted) -> None:
    for vector, other in zip(vectors, wanted, strict=True):
        assert np.abs(np.array(vector) - other).max() < 1e-5 * np.abs(other).max()


def test_openais_client_gets_the_hidden_states_of_transformers(client) -> None:
    answer = client.embeddings.create(model="demo", input=TEXTS, encoding_format="float")
    assert (answer.object, answer.model, [each.index for each in answer.data]) == ("list", "demo", [0, 1, 2])
    assert_same([each.embedding for each in answer.data], map(expected, TEXTS))
    tokenizer, _ = transformers_of()
    ids = [tokenizer(text)["input_ids"] for text in TEXTS]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(map(len, ids))
    tokens = client.embeddings.create(model="demo", input=ids, encoding_format="float", user="u")
    assert_same([each.embedding for each in tokens.data], map(expected, TEXTS))
    # By itself it asks for base64 and decodes that, though its own types then refuse the answer.
    usual = lenient(client).embeddings
    one = usual.create(model="demo", input=ids[0], dimensions=16)
    assert_same([one.data[0].embedding], [expected(TEXTS[0], "last", 16)])
    mean = usual.create(model="demo", input=TEXTS[0], extra_body={"pooling": "mean"})
    assert_same([mean.data[0].embedding], [expected(TEXTS[0], "mean")])


async def test_both_clients_embed_texts_and_token_ids_in_order(stack_redis, jobs: Client) -> None:
    tokenizer, _ = transformers_of()
    mixed = [TEXTS[0], tokenizer(TEXTS[1])["input_ids"], TEXTS[2]]
    assert_same(jobs.embed(mixed, model="demo", pooling="mean"), [expected(text, "mean") for text in TEXTS])
    async with AsyncClient(stack_redis.url) as client:
        assert_same(await client.embed(TEXTS[0], model="demo"), [expected(TEXTS[0])])
    (raw,) = jobs.embed(TEXTS[:1], model="demo", normalize=False, job_class="batch", timeout_s=90)
    assert math.dist(raw, [0] * len(raw)) > 1.1
    with pytest.raises(InvalidJob, match=r"inputs\[1\]: must be a text or its token ids, not int"):
        jobs.embed(["a", 5], model="demo")


def test_a_job_for_an_embedding_has_a_vector_no_tokens_and_an_empty_stream(http, jobs: Client) -> None:
    made = http.post("/v1/jobs", json={"model": "demo", "prompt": TEXTS[0], "embed": True})
    job = jobs.job(made.json()["id"])
    result = job.result(90)
    assert (result.text, result.token_ids, result.finish_reason) == ("", (), "stop")
    assert result.usage.completion_tokens == 0
    assert list(job.stream()) == []
    assert_same([result.embedding], [expected(TEXTS[0])])
    told = http.get(f"/v1/jobs/{job.id}").json()["result"]
    assert from_base64(told["embedding"]) == result.embedding


def test_killed_while_it_is_computed_it_is_computed_again(jobs: Client, worker) -> None:
    beside = {"prompt": "def f(", "model": "demo", "max_tokens": 24, "seed": 3, "ignore_eos": True}
    alone = jobs.enqueue(**beside).result(90).token_ids
    worker.write_text("30")  # the step with the vector lasts until the kill
    try:
        job, answer = jobs.enqueue(TEXTS[2], model="demo", embed={"pooling": "mean"}), jobs.enqueue(**beside)
        wait_until(lambda: job.status().state is JobState.RUNNING)
        kill_engine_of(job, jobs)
    finally:
        worker.unlink()
    assert job.status().state is not JobState.SUCCEEDED
    assert_same([job.result(90).embedding], [expected(TEXTS[2], "mean")])
    assert answer.result(90).token_ids == alone
    wait_until(jobs.workers)


def test_lines_of_a_batch_are_embedded(client) -> None:
    def line(name: str, **body: object) -> bytes:
        asked = {"custom_id": name, "method": "POST", "url": URL, "body": {"model": "demo", **body}}
        return json.dumps(asked).encode() + b"\n"

    lines = [line(f"{number}", input=text) for number, text in enumerate(TEXTS)]
    batch = submit(client, *lines, line("two", input=["a", "b"]), endpoint=URL)
    done = ended(client, batch.id)
    bodies = {name: each["response"]["body"] for name, each in answers(client, done.output_file_id).items()}
    vectors = [bodies[f"{number}"]["data"][0]["embedding"] for number in range(len(TEXTS))]
    assert_same(vectors, map(expected, TEXTS))
    (refused,) = answers(client, done.error_file_id).values()
    assert refused["response"]["body"]["error"]["param"] == "input"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": ["a", [5]]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": True}, "dimensions"),
        ({"input": "a", "dimensions": 257}, None),
        ({"input": "a", "pooling": "cls"}, "pooling"),
        ({"input": "a", "normalize": 1}, "normalize"),
        ({"input": "a", "temperature": 1}, "temperature"),
        ({"input": "a", "input_type": "query"}, "input_type"),
        ({"input": [2**30]}, None),
        ({"input": "word " * 20_000}, None),
    ],
    ids=range(16),
)
def test_what_can_not_be_embedded_is_refused_by_name(http, body, field) -> None:
    error = error_of(http.post(URL, json={"model": "demo", **body}), 400)
    assert field is None or error["param"] == field


def test_other_endpoints_refuse_to_embed(http) -> None:
    error = error_of(http.post("/v1/completions", json={"model": "demo", "prompt": "a", "embed": True}), 400)
    assert error["param"] == "embed"
    assert URL in error["message"]


@pytest.mark.parametrize("path", ["/classify", "/v1/pooling"])
def test_other_pooling_is_refused_by_name(http, path) -> None:
    message = error_of(http.post(path, json={"model": "demo"}), 404)["message"]
    assert path.rpartition("/")[2] in message
    assert URL in message
