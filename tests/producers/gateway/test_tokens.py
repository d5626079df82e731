"""`/tokenize` and `/detokenize`: what the model's tokenizer says, asked through the queue."""

import httpx
import pytest

from headrace import Client

from .test_requests import error_of

pytestmark = [pytest.mark.serial, pytest.mark.xdist_group("gateway"), pytest.mark.usefixtures("worker")]

HELLO = [{"role": "user", "content": "What does str.split do?"}]


def tokenize(http: httpx.Client, **fields: object) -> dict:
    answer = http.post("/tokenize", json={"model": "demo", **fields})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-headrace-model"] == "demo"
    return answer.json()


@pytest.mark.parametrize("prompt", [{"prompt": "def f(ä):"}, {"messages": HELLO}], ids=["prompt", "messages"])
def test_a_prompt_has_the_tokens_that_its_job_has(http, jobs: Client, prompt) -> None:
    told = tokenize(http, **prompt)
    result = jobs.enqueue(model="demo", max_tokens=1, **prompt).result(60)
    assert told["count"] == len(told["tokens"]) == result.usage.prompt_tokens
    assert told["token_strs"] is None
    assert told["max_model_len"] == http.get("/v1/models/demo").json()["max_model_len"]
    again = jobs.enqueue(model="demo", prompt_token_ids=told["tokens"], max_tokens=4, temperature=0)
    greedy = jobs.enqueue(model="demo", max_tokens=4, temperature=0, **prompt)
    assert again.result(60).token_ids == greedy.result(60).token_ids


def test_what_is_asked_of_the_tokenizer_is_done(http) -> None:
    whole = tokenize(http, messages=HELLO)
    unbegun = tokenize(http, messages=HELLO, add_generation_prompt=False)
    assert unbegun["count"] < whole["count"]
    assert unbegun["tokens"] == whole["tokens"][: unbegun["count"]]
    named = tokenize(http, prompt="a list", return_token_strs=True)
    assert len(named["token_strs"]) == named["count"]
    assert "list" in named["token_strs"][-1]
    bare = tokenize(http, prompt="a list", add_special_tokens=False)
    assert bare["tokens"] == named["tokens"][-bare["count"] :]


def test_tokens_become_the_text_that_they_came_from(http, jobs: Client) -> None:
    text = "for ä in 日本: pass\n"
    tokens = tokenize(http, prompt=text, add_special_tokens=False)["tokens"]
    answer = http.post("/detokenize", json={"model": "demo", "tokens": tokens})
    assert answer.json() == {"prompt": text}
    # Nothing was generated, and nobody else sees tokens of a job that has none.
    (job,) = jobs.admin.jobs("demo", limit=1).jobs
    assert (job.state, job.job_class) == ("succeeded", "interactive")
    assert jobs.job(job.job_id).result().usage.completion_tokens == 0
    assert list(jobs.job(job.job_id).stream()) == []


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/tokenize", {"prompt": "a", "messages": HELLO}, None),
        ("/tokenize", {"prompt": "a", "return_token_strs": 1}, "return_token_strs"),
        ("/tokenize", {"prompt": "a", "chat_template": "x"}, "chat_template"),
        ("/tokenize", {"prompt": "a", "temperature": 1}, "temperature"),
        ("/tokenize", {"messages": HELLO, "continue_final_message": True}, "continue_final_message"),
        ("/detokenize", {"tokens": []}, "tokens"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, None),
        ("/detokenize", {"tokens": [2**30]}, None),
        ("/tokenize", {"prompt": "word " * 20_000}, None),
    ],
    ids=range(10),
)
def test_what_the_tokenizer_can_not_answer_is_refused_by_name(http, path, body, field) -> None:
    error = error_of(http.post(path, json={"model": "demo", **body}), 400)
    assert field is None or error["param"] == field
    assert "x" if field is None else error["message"].startswith(field)
