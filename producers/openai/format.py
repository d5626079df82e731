"""The endpoints of OpenAI's API by their URLs, for requests that name theirs, as the lines of a batch do."""

import time
from collections.abc import Mapping
from typing import Any

from ...schemas.errors import InvalidJob
from ...schemas.events import JobResult
from .chat import chat_body, chat_fields
from .completions import completion_body, completion_fields

CHAT_URL = "/v1/chat/completions"
COMPLETIONS_URL = "/v1/completions"


def job_fields(url: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Job.make` for a request body; it refuses names without a counterpart.

    Raises:
        InvalidJob: the endpoint or one of its options isn't supported.
    """
    if url == CHAT_URL:
        return chat_fields(body)
    if url == COMPLETIONS_URL:
        return completion_fields(body)
    raise InvalidJob("url", f"must be {CHAT_URL} or {COMPLETIONS_URL} (got {url!r})")


def response_body(
    url: str, model: str, result: JobResult, *, return_token_ids: bool = False
) -> dict[str, Any]:
    """The response to a request whose job ended with this result."""
    created = int(time.time())
    if url == CHAT_URL:
        return chat_body(result, model, created, return_token_ids=return_token_ids)
    return completion_body(result, model=model, created=created, return_token_ids=return_token_ids)
