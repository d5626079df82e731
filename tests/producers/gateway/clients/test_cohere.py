"""Cohere's client asks the gateway to rerank, by both versions of its API."""

import json

import pytest

from ..test_rerank import DOCUMENTS, QUERY, likelihood
from ..test_rerank import folders as folders
from ..test_rerank import pace as pace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.serial,
    pytest.mark.timeout(400),
    pytest.mark.xdist_group("gateway"),
]

PROGRAM = """
import json, os, sys
import cohere

query, documents = json.loads(sys.argv[1])
for kind in (cohere.Client, cohere.ClientV2):
    client = kind(api_key="-", base_url=os.environ["GATEWAY"])
    answer = client.rerank(model="reranker", query=query, documents=documents, top_n=3)
    print(json.dumps([(each.index, each.relevance_score) for each in answer.results]))
try:
    client.rerank(model="demo", query=query, documents=documents)
except cohere.BadRequestError as error:
    print(error.body["error"]["param"])
"""


def test_it_gets_the_best_documents_and_the_reason_of_a_refusal(
    python, run, shared_gateway, folders, pace, tmp_path
) -> None:
    asked = json.dumps([QUERY, DOCUMENTS])
    printed = run(python("cohere"), "-c", PROGRAM, asked, folder=tmp_path, GATEWAY=shared_gateway.url)
    first, second, refused = printed.splitlines()
    wanted = {place: likelihood(folders, QUERY, each) for place, each in enumerate(DOCUMENTS)}
    best = sorted(wanted, key=wanted.__getitem__, reverse=True)[:3]
    for answer in map(json.loads, (first, second)):
        assert [index for index, _ in answer] == best
        assert dict(answer) == pytest.approx({index: wanted[index] for index in best}, abs=1e-5)
    assert refused == "model"
