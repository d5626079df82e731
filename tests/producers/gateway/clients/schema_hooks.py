"""What schemathesis is told beyond `/openapi.json`: the fields that requests may have, and how refusals look.

Loaded by schemathesis in a process of its own. `REQUEST_FIELDS` names, by path, the fields of its body, and
`ANSWERS` a file in which each answer becomes a line.
"""

import json
import os
from pathlib import Path
from typing import Any

import schemathesis

TOKENS = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 300}, "minItems": 1}
MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {"role": {"enum": ["system", "user", "assistant"]}, "content": {"type": "string"}},
}
TYPICAL: dict[str, Any] = {
    "model": {"enum": ["demo"]},
    "messages": {"type": "array", "items": MESSAGE, "minItems": 1},
    "prompt": {"anyOf": [{"type": "string", "minLength": 1}, TOKENS]},
    "input": {"type": "string", "minLength": 1},
    "tokens": TOKENS,
    "prompt_token_ids": TOKENS,
}
"""Values of which some are accepted; every other field may have any."""
FEW = {"type": "integer", "minimum": 1, "maximum": 8}
ALSO_REQUIRED = {
    "/v1/chat/completions": ("max_tokens",),
    "/v1/jobs": ("max_tokens", "prompt"),
    "/tokenize": ("prompt",),
}
"""Without them a chat takes long, and most of the others would be refused."""
LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
MOST_FIELDS = 6
ERROR = {"message", "type", "param", "code"}


@schemathesis.hook
def before_load_schema(context: schemathesis.HookContext, raw_schema: dict[str, Any]) -> None:
    """Describe the bodies in more detail than the gateway does."""
    for path, names in json.loads(os.environ["REQUEST_FIELDS"]).items():
        content = raw_schema["paths"][path]["post"]["requestBody"]["content"]
        schema = content["application/json"]["schema"]
        lengths = {name: FEW for name in LENGTHS if name in names}
        given = {name: TYPICAL.get(name, {}) for name in names}
        schema["properties"] |= given | lengths
        schema["required"] += ALSO_REQUIRED.get(path, ())
        schema["maxProperties"] = MOST_FIELDS


@schemathesis.check
def refusal_has_the_apis_body(
    context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """A refusal is the API's error, and nothing else."""
    with Path(os.environ["ANSWERS"]).open("a") as answers:
        answers.write(f"{case.method} {case.path} {response.status_code}\n")
    if response.status_code < 400 or (case.method == "HEAD" and not response.content):
        return
    body = json.loads(response.content)
    if case.path.startswith("/v1/messages"):
        assert body["type"] == "error", body
        assert {"type", "message"} <= body["error"].keys(), body
    else:
        assert body.keys() == {"error"}, body
        assert body["error"].keys() == ERROR, body
    assert body["error"]["message"], body
