"""Documents by how well they answer a query, from a reranker and from an embedding model."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from headrace import AsyncClient, Client, InvalidJob, JobFailed
from headrace.schemas import keys
from headrace.schemas.events import JobState
from headrace.schemas.redis.connection import connect

from ...support.models import small_model
from ...support.processes import ANY_HOST, kill_engine_of, running
from ...support.waiting import wait_until
from .test_batches import answers, ended, submit
from .test_embeddings import client as client
from .test_requests import error_of

pytestmark = [pytest.mark.serial, pytest.mark.xdist_group("gateway"), pytest.mark.usefixtures("worker")]

QUERY = "How do I split a string?"
DOCUMENTS = ["Use str.split.", "日本", "def f(a):\n    return a\n" * 20, "A list is ordered."]
NO, YES = "False", "True"
TEMPLATE = "{{ messages[0]['content'] }} // {{ messages[1].content }} =>"


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Models of random weights: one that answers with one of two words, and one without a head."""
    made = {name: small_model(tmp_path_factory.mktemp(name)) for name in ("reranker", "embedder")}
    config = json.loads((made["embedder"] / "config.json").read_text())
    (made["embedder"] / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaModel"]}))
    tensors = load_file(made["embedder"] / "model.safetensors")
    tensors = {
        name.removeprefix("model."): each.clone()
        for name, each in tensors.items()
        if name != "lm_head.weight"
    }
    save_file(tensors, made["embedder"] / "model.safetensors")
    (made["reranker"] / "template.jinja").write_text(TEMPLATE)
    return made


@pytest.fixture(scope="module")
def pace(folders, stack_redis, forkserver, tmp_path_factory) -> Iterator[Path]:
    """Both models are served; gives the file that slows the reranker."""
    from ...support import paced_engine

    place = tmp_path_factory.mktemp("scores")
    of = {
        "reranker": (
            "--classifier-from-token",
            f"{NO},{YES}",
            "--score-template",
            str(folders["reranker"] / "template.jinja"),
        ),
        "embedder": (),
    }
    with ExitStack() as stack:
        hosts = []
        for name, flags in of.items():
            run = (ANY_HOST, paced_engine.__file__, "--redis", stack_redis.url, "--model", str(folders[name]))
            usual = ("--served-name", name, "--device", "cpu", "--threads", "1", "--lease-s", "2")
            environment = {paced_engine.VARIABLE: str(place / name), "OMP_NUM_THREADS": "1"}
            log = place / f"{name}.log"
            hosts.append(
                stack.enter_context(
                    running(
                        *run, *usual, *flags, log=log, ends_well=True, forkserver=forkserver, **environment
                    )
                )
            )
        client = stack.enter_context(Client(stack_redis.url))
        wait_until(
            lambda: of.keys() <= {each.model for each in client.workers()} or any(h.ended for h in hosts)
        )
        assert not any(host.ended for host in hosts), [host.said()[-2000:] for host in hosts]
        yield place / "reranker"
    with connect(stack_redis.url) as redis:
        redis.hdel(keys.models(), *of)


@cache
def _loaded(folder: Path, kind: str):
    import torch
    import transformers

    model = getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32).eval()
    return transformers.AutoTokenizer.from_pretrained(folder), model


def likelihood(folders, query: str, document: str) -> float:
    """How likely transformers finds yes of the two words."""
    import torch

    tokenizer, model = _loaded(folders["reranker"], "AutoModelForCausalLM")
    ids = tokenizer(f"{query} // {document} =>")["input_ids"]
    words = tokenizer.convert_tokens_to_ids([NO, YES])
    with torch.inference_mode():
        return float(model(torch.tensor([ids])).logits[0, -1, words].double().softmax(0)[1])


def cosine(folders, query: str, document: str) -> float:
    """That of transformers' last hidden states."""
    import torch

    tokenizer, model = _loaded(folders["embedder"], "AutoModel")
    with torch.inference_mode():
        one, other = (
            model(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0, -1].double()
            for text in (query, document)
        )
    return float(one @ other / one.norm() / other.norm())


WANTED = {"reranker": likelihood, "embedder": cosine}


@pytest.mark.parametrize("model", ["reranker", "embedder"])
def test_documents_are_ranked_as_transformers_scores_them(http, folders, pace, model) -> None:
    wanted = {place: WANTED[model](folders, QUERY, each) for place, each in enumerate(DOCUMENTS)}
    asked = {"model": model, "query": QUERY, "documents": DOCUMENTS}
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        answer = http.post(path, json=asked).json()
        scores = {each["index"]: each["relevance_score"] for each in answer["results"]}
        assert scores == pytest.approx(wanted, abs=1e-5)
        assert [*scores] == sorted(wanted, key=wanted.__getitem__, reverse=True)
        assert [each["document"]["text"] for each in answer["results"]] == [
            DOCUMENTS[each] for each in scores
        ]
        assert answer["model"] == model
        assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] > 0
    as_objects = [{"text": each} for each in DOCUMENTS]
    best = http.post(
        "/rerank", json={**asked, "documents": as_objects, "top_n": 2, "return_documents": False}
    )
    assert [each["index"] for each in best.json()["results"]] == [*scores][:2]
    assert all(each.keys() == {"index", "relevance_score"} for each in best.json()["results"])


@pytest.mark.parametrize("model", ["reranker", "embedder"])
def test_scores_of_one_query_or_of_pairs_come_in_order(http, folders, pace, model) -> None:
    of = WANTED[model]
    for path in ("/score", "/v1/score"):
        answer = http.post(path, json={"model": model, "text_1": QUERY, "text_2": DOCUMENTS}).json()
        assert [each["index"] for each in answer["data"]] == [0, 1, 2, 3]
        scores = [each["score"] for each in answer["data"]]
        assert scores == pytest.approx([of(folders, QUERY, each) for each in DOCUMENTS], abs=1e-5)
    pairs = {"model": model, "queries": DOCUMENTS[:2], "documents": DOCUMENTS[2:], "idempotency_key": model}
    scores = [each["score"] for each in http.post("/score", json=pairs).json()["data"]]
    wanted = [of(folders, *each) for each in zip(DOCUMENTS[:2], DOCUMENTS[2:], strict=True)]
    assert scores == pytest.approx(wanted, abs=1e-5)
    again = http.post("/score", json=pairs).json()
    assert [each["score"] for each in again["data"]] == scores
    error = error_of(http.post("/score", json={**pairs, "documents": DOCUMENTS[:3]}), 400)
    assert error["param"] == "queries"
    assert "documents has 3" in error["message"]


async def test_both_clients_rerank(stack_redis, jobs: Client, folders, pace) -> None:
    best = jobs.rerank(QUERY, DOCUMENTS, model="reranker", top_n=3, job_class="batch", timeout_s=90)
    assert [each.document for each in best] == [DOCUMENTS[each.index] for each in best]
    wanted = sorted((likelihood(folders, QUERY, each) for each in DOCUMENTS), reverse=True)
    assert [each.score for each in best] == pytest.approx(wanted[:3], abs=1e-5)
    async with AsyncClient(stack_redis.url) as client:
        (one,) = await client.rerank(QUERY, DOCUMENTS[:1], model="embedder")
    assert one.score == pytest.approx(cosine(folders, QUERY, DOCUMENTS[0]), abs=1e-5)
    for documents, top_n, said in (
        ([], None, "documents: must be a list"),
        (["a", ""], None, r"documents\[1\]: must be a text that isn't empty, not one"),
        (["a"], 0, "top_n: must be a whole number of at least 1, not 0"),
    ):
        with pytest.raises(InvalidJob, match=said):
            jobs.rerank(QUERY, documents, model="reranker", top_n=top_n)


def test_a_model_made_to_generate_is_refused_with_the_way_out(http, jobs: Client, pace) -> None:
    for path, body in (
        ("/score", {"text_1": "a", "text_2": "b"}),
        ("/rerank", {"query": "a", "documents": ["b"]}),
    ):
        error = error_of(http.post(path, json={"model": "demo", **body}), 400)
        assert error["param"] == "model"
        assert "classifier_from_token" in error["message"]
    with pytest.raises(InvalidJob, match="'demo' is made to generate"):
        jobs.rerank("a", ["b"], model="demo")
    with pytest.raises(JobFailed, match=r"document: the model has no head that scores"):
        jobs.enqueue("a", model="demo", document="b").result(90)


def test_a_reranker_of_two_words_generates_as_well(jobs: Client, pace) -> None:
    result = jobs.enqueue(QUERY, model="reranker", max_tokens=4, ignore_eos=True).result(90)
    assert len(result.token_ids) == 4
    tasks = {each.id: each.task for each in jobs.models()}
    assert (tasks["reranker"], tasks["embedder"], tasks["demo"]) == ("score", "embed", "generate")


def test_killed_while_a_document_is_scored_it_is_scored_again(http, jobs: Client, folders, pace) -> None:
    pace.write_text("30")  # the step lasts until the kill
    try:
        job = jobs.enqueue(QUERY, model="reranker", document=DOCUMENTS[2])
        wait_until(lambda: job.status().state is JobState.RUNNING)
        kill_engine_of(job, jobs)
    finally:
        pace.unlink()
    assert job.status().state is not JobState.SUCCEEDED
    result = job.result(90)
    assert result.score == pytest.approx(likelihood(folders, QUERY, DOCUMENTS[2]), abs=1e-5)
    assert (result.text, result.token_ids, list(job.stream())) == ("", (), [])
    assert http.get(f"/v1/jobs/{job.id}").json()["result"]["score"] == result.score
    wait_until(lambda: any(each.model == "reranker" for each in jobs.workers()))


def test_lines_of_a_batch_are_scored(client, folders, pace) -> None:
    def line(name: str, **body: object) -> bytes:
        asked = {
            "custom_id": name,
            "method": "POST",
            "url": "/v1/score",
            "body": {"model": "reranker", **body},
        }
        return json.dumps(asked).encode() + b"\n"

    lines = [line(f"{place}", text_1=QUERY, text_2=each) for place, each in enumerate(DOCUMENTS)]
    batch = submit(client, *lines, line("two", text_1=QUERY, text_2=["a", "b"]), endpoint="/v1/score")
    done = ended(client, batch.id)
    bodies = {name: each["response"]["body"] for name, each in answers(client, done.output_file_id).items()}
    scores = [bodies[f"{place}"]["data"][0]["score"] for place in range(len(DOCUMENTS))]
    assert scores == pytest.approx([likelihood(folders, QUERY, each) for each in DOCUMENTS], abs=1e-5)
    (refused,) = answers(client, done.error_file_id).values()
    assert refused["response"]["body"]["error"]["param"] == "documents"


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/rerank", {}, "query"),
        ("/rerank", {"query": "", "documents": ["a"]}, "query"),
        ("/rerank", {"query": "a"}, "documents"),
        ("/rerank", {"query": "a", "documents": []}, "documents"),
        ("/rerank", {"query": "a", "documents": ["a", {"title": "b"}]}, "documents[1]"),
        ("/rerank", {"query": "a", "documents": ["a"] * 2049}, "documents"),
        ("/rerank", {"query": "a", "documents": ["a"], "top_n": -1}, "top_n"),
        ("/rerank", {"query": "a", "documents": ["a"], "top_n": True}, "top_n"),
        ("/rerank", {"query": "a", "documents": ["a"], "return_documents": 1}, "return_documents"),
        ("/rerank", {"query": "a", "documents": ["a"], "max_tokens_per_doc": 5}, "max_tokens_per_doc"),
        ("/rerank", {"query": "a", "documents": ["a"], "temperature": 1}, "temperature"),
        ("/rerank", {"query": "a", "documents": ["word " * 20_000]}, None),
        ("/score", {"text_2": "a"}, "text_1"),
        ("/score", {"text_1": "a", "queries": "b", "text_2": "c"}, "text_1"),
        ("/score", {"text_1": ["a", "b"], "text_2": "c"}, "text_1"),
        ("/score", {"text_1": "a", "text_2": ["c", 5]}, "text_2[1]"),
        ("/score", {"text_1": "a", "text_2": "b", "use_activation": False}, "use_activation"),
    ],
    ids=range(17),
)
def test_what_can_not_be_scored_is_refused_by_name(http, pace, path, body, field) -> None:
    error = error_of(http.post(path, json={"model": "reranker", **body}), 400)
    assert field is None or error["param"] == field
