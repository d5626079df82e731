"""An answer of many numbers is made beside the event loop, and is the same."""

import asyncio
import json
import threading

import pytest

from headrace.producers.gateway.answers import FEW_NUMBERS, answer_of
from headrace.producers.openai.embeddings import embedding_body
from headrace.schemas.events import JobResult, Usage


@pytest.mark.parametrize("count", [1, 60])
def test_many_vectors_are_written_beside_the_event_loop(count: int) -> None:
    vector = tuple(place / 7 for place in range(100))
    assert len(vector) < FEW_NUMBERS < 60 * len(vector)
    one = JobResult.model_construct(embedding=vector, usage=Usage(prompt_tokens=3), prompt_logprobs=None)
    threads = []

    def body(results: list[JobResult]) -> dict[str, object]:
        threads.append(threading.current_thread())
        return embedding_body(results, 'ü"', "float")

    response = asyncio.run(answer_of([one] * count, body))
    assert json.loads(response.body) == embedding_body([one] * count, 'ü"', "float")
    assert response.headers["content-type"] == "application/json"
    assert (threads == [threading.main_thread()]) is (count == 1)
