"""schemathesis asks the gateway for what `/openapi.json` describes, and for what it doesn't."""

import json
import re
from collections import Counter
from pathlib import Path

import httpx
import pytest

from headrace.producers.anthropic import request as messages
from headrace.producers.openai import chat, completions, rerank, tokens
from headrace.producers.openai.responses import request as responses
from headrace.schemas.job import Job

HERE = Path(__file__).parent
EXAMPLES = 12
"""For each route: a number, and no time, so that a slow machine asks as much."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.serial,
    pytest.mark.timeout(400),
    pytest.mark.xdist_group("gateway"),
]

FIELDS = {
    "/v1/chat/completions": chat.FIELDS.known,
    "/v1/completions": completions.FIELDS.known,
    "/v1/messages": messages.FIELDS.known,
    "/v1/messages/count_tokens": messages.FIELDS.known - {"max_tokens"},
    "/v1/responses": responses.FIELDS.known,
    **{f"{version}/score": rerank.SCORE.known for version in ("", "/v1")},
    **{f"{version}/rerank": rerank.RERANK.known for version in ("", "/v1", "/v2")},
    "/tokenize": tokens.TOKENIZE.known,
    "/detokenize": tokens.DETOKENIZE.known,
    "/v1/jobs": Job.model_fields.keys(),
}


def test_whatever_the_schema_allows_is_answered_or_refused_with_the_apis_body(
    python, run, shared_gateway, tmp_path, capsys
):
    printed = run(
        *(python("schemathesis"), "-m", "schemathesis.cli", "run", f"{shared_gateway.url}/openapi.json"),
        *("--max-examples", str(EXAMPLES), "--phases", "fuzzing", "--request-timeout", "60"),
        *("--checks", "not_a_server_error,refusal_has_the_apis_body", "--continue-on-failure"),
        *("--seed", "1", "--no-shrink", "--suppress-health-check", "all", "--no-color"),
        folder=tmp_path,
        SCHEMATHESIS_HOOKS="schema_hooks",
        PYTHONPATH=str(HERE),
        ANSWERS=str(tmp_path / "answers"),
        REQUEST_FIELDS=json.dumps({path: sorted(names) for path, names in FIELDS.items()}),
    )
    found = re.search(r"(\d+) generated, (\d+) passed", printed)
    assert found is not None, printed
    assert found[1] == found[2]
    lines = (tmp_path / "answers").read_text().splitlines()
    answered = Counter(tuple(line.split()) for line in lines)
    paths = httpx.get(f"{shared_gateway.url}/openapi.json").json()["paths"]
    routes = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert routes <= {route[:2] for route in answered}
    accepted = {path for method, path, status in answered if method + status[0] == "POST2"}
    with capsys.disabled():
        print(f"\n{found[0]}; of these some were accepted: {sorted(accepted)}")
    assert {"/detokenize", "/v1/completions", "/v1/files"} <= accepted
