"""A job for an embedding: what it may ask, and how it and its vector travel."""

import pytest

from headrace import InvalidJob
from headrace.schemas.embed import from_base64, to_base64
from headrace.schemas.events import Output
from headrace.schemas.job import Job
from headrace.schemas.wire import WireJob


@pytest.mark.parametrize("embed", [True, {}, {"pooling": "mean", "normalize": False, "dimensions": 8}])
def test_it_travels_as_a_job_of_one_token(embed):
    job = WireJob.of(Job.make(model="m", prompt="a", embed=embed))
    assert job.max_tokens == 1
    assert WireJob.from_wire(job.to_wire()) == job


@pytest.mark.parametrize("embed", [None, False])
def test_without_it_a_job_generates_and_is_written_as_ever(embed):
    job = WireJob.of(Job.make(model="m", prompt="a", embed=embed))
    assert job.to_wire() == '{"v":1,"model":"m","prompt":"a"}'


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"embed": {"pooling": "cls"}}, "embed.pooling: must be 'last' or 'mean'"),
        ({"embed": {"dim": 3}}, "embed.dim: is not known"),
        ({"embed": {"dimensions": 0}}, "embed.dimensions: must be at least 1"),
        ({"embed": 3}, "embed: must be a dict"),
        ({"embed": True, "max_tokens": 5}, "max_tokens has no meaning beside embed"),
        ({"embed": True, "temperature": 0}, "temperature has no meaning beside embed"),
        ({"embed": True, "stop": "x"}, "stop has no meaning beside embed"),
        ({"embed": True, "structured_outputs": {"regex": "a"}}, "structured_outputs has no meaning beside"),
    ],
    ids=range(8),
)
def test_what_it_can_not_ask_is_refused_by_name(fields, said):
    with pytest.raises(InvalidJob, match=said):
        Job.make(model="m", prompt="a", **fields)


def test_a_vector_is_numbers_in_python_and_float32_in_base64_in_json():
    output = Output(finish_reason="stop", embedding=(0.5, -1.25, 3.0))
    assert output.model_dump(mode="json")["embedding"] == to_base64(output.embedding) == "AAAAPwAAoL8AAEBA"
    assert Output.model_validate_json(output.model_dump_json()).embedding == output.embedding
    with pytest.raises(ValueError, match="isn't float32 in base64"):
        from_base64("AAA=")
