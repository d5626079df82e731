"""A job that wants no answer: what it may ask beside that, and how it travels."""

import pytest

from headrace import InvalidJob
from headrace.schemas.job import Job
from headrace.schemas.wire import WireJob


@pytest.mark.parametrize(
    ("fields", "max_tokens"),
    [
        ({"prompt": "a", "document": "b"}, 1),
        ({"prompt": "a", "continuation": " b"}, 0),
        ({"messages": [{"role": "user", "content": "a"}], "continuation": "b"}, 0),
        ({"prompt_token_ids": [5, 6], "continuation": [7], "prompt_logprobs": 3}, 0),
    ],
    ids=["document", "text", "messages", "tokens"],
)
def test_it_travels_as_a_job_that_reserves_its_prompt(fields, max_tokens):
    job = WireJob.of(Job.make(model="m", **fields))
    assert job.max_tokens == max_tokens
    assert job.prompt_logprobs == (fields.get("prompt_logprobs", 0) if "continuation" in fields else None)
    assert WireJob.from_wire(job.to_wire()) == job


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"document": "d", "embed": True}, "give only one of embed and document: a job has one result"),
        ({"document": "d", "max_tokens": 5}, "max_tokens has no meaning beside document"),
        ({"document": ""}, "document: "),
        ({"continuation": "c", "document": "d"}, "give only one of document and continuation"),
        ({"continuation": "c", "max_tokens": 5}, "max_tokens has no meaning beside continuation"),
        ({"continuation": "c", "temperature": 0}, "temperature has no meaning beside continuation"),
        ({"continuation": [5]}, "continuation must be a text after a prompt or messages"),
        ({"continuation": ""}, r"^continuation: must not be empty"),
        ({"continuation": 5}, r"^continuation: must be a list"),
        ({"continuation": [-1]}, r"^continuation\.0: must be at least 0"),
        ({"prompt": None, "prompt_token_ids": [5], "continuation": "c"}, "continuation must be token ids"),
        ({"prompt": None, "prompt_token_ids": [5], "document": "d"}, "document needs its query as prompt"),
    ],
    ids=range(12),
)
def test_what_it_can_not_ask_is_refused_by_name(fields, said):
    with pytest.raises(InvalidJob, match=said):
        Job.make(**{"model": "m", "prompt": "a", **fields})
