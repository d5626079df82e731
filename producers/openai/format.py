"""The endpoints of OpenAI's API by their URLs, for requests that name theirs, as the lines of a batch do."""

import time
from collections.abc import Mapping
from typing import Any

from ...schemas.errors import InvalidJob
from ...schemas.events import JobResult
from .chat import chat_body, chat_fields
from .completions import about_prompts, completion_body, completion_fields
from .embeddings import embedding_body, embedding_fields, encoding_of
from .options import flag
from .prompts import about_prompt
from .rerank import one_job, rerank_body, rerank_request, score_body, score_request
from .responses.body import Response
from .responses.request import response_request

CHAT_URL = "/v1/chat/completions"
COMPLETIONS_URL = "/v1/completions"
RESPONSES_URL = "/v1/responses"
EMBEDDINGS_URL = "/v1/embeddings"
SCORE_URL = "/v1/score"
RERANK_URL = "/v1/rerank"

ENDPOINTS = (CHAT_URL, COMPLETIONS_URL, RESPONSES_URL, EMBEDDINGS_URL, SCORE_URL, RERANK_URL)

_NOT_ALONE = ("background", "previous_response_id")
"""Fields of a response that need more than its own line."""


def job_fields(url: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Job.make` for a request body; it refuses names without a counterpart.

    Raises:
        InvalidJob: the endpoint or one of its options isn't supported.
    """
    if url not in ENDPOINTS:
        raise InvalidJob("url", f"must be one of {', '.join(ENDPOINTS)} (got {url!r})")
    if url == RESPONSES_URL:
        for name in _NOT_ALONE:
            if body.get(name):
                raise InvalidJob(name, "is not supported in a batch")
        return response_request(body).job
    if url == EMBEDDINGS_URL:
        return embedding_fields(body)
    if url in (SCORE_URL, RERANK_URL):
        return one_job(score_request(body) if url == SCORE_URL else rerank_request(body))
    flag(body, "return_token_ids")
    return chat_fields(body) if url == CHAT_URL else completion_fields(body)


def response_body(url: str, model: str, result: JobResult, body: Mapping[str, Any]) -> dict[str, Any]:
    """The response to a request with this body, whose job ended with this result."""
    created = int(time.time())
    if url == RESPONSES_URL:
        return Response(result.job_id, created, response_request(body).echo | {"model": model}).ended(result)
    if url == EMBEDDINGS_URL:
        return embedding_body([result], model, encoding_of(body))
    if url == SCORE_URL:
        return score_body([result], model, score_request(body))
    if url == RERANK_URL:
        return rerank_body([result], model, rerank_request(body))
    with_ids = flag(body, "return_token_ids")
    if url == CHAT_URL:
        about = about_prompt(body, None)
        return chat_body(result, model, created, return_token_ids=with_ids, prompt=about)
    return completion_body(
        result, model=model, created=created, return_token_ids=with_ids, prompts=about_prompts(body)
    )
