"""Scores of documents: requests of vLLM, Jina and Cohere as jobs, and results as answers."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...schemas.errors import InvalidJob
from ...schemas.events import JobResult
from ...schemas.job import Job
from ..rank import check_documents, rank_jobs, rank_scores, ranked
from .embeddings import MAX_INPUTS
from .fields import TIER, WHO, Fields, drop, take_tier, take_who_asks
from .options import flag

_PASSED = frozenset({"model", "metadata", "truncate_prompt_tokens", "truncation_side"})
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "activation": (True,),
    "use_activation": (True,),
    "add_special_tokens": (True,),
    "encoding_format": ("float",),
    "priority": (0,),
}
_NO_PARTS = "shorten the documents, or send truncate_prompt_tokens"
_QUEUE = {
    *("job_class", "idempotency_key", "delay_s", "deadline_s", "max_runtime_s", "max_attempts", "webhook"),
    "tenant",
}

SCORE = Fields(
    passed=_PASSED,
    read={
        "text_1": f"a query, or up to {MAX_INPUTS:,} of them, one for each document",
        "text_2": "a document or several",
        "queries": "another name of `text_1`",
        "documents": "another name of `text_2`",
        **TIER,
        **WHO,
    },
    neutral=_NEUTRAL,
    refused={"messages": "send texts as `text_1` and `text_2`"},
)

RERANK = Fields(
    passed=_PASSED,
    read={
        "query": "a text",
        "documents": f"up to {MAX_INPUTS:,} texts, or objects with a `text`",
        "top_n": "return only this many of the best; 0 is all",
        "return_documents": "`false` leaves their texts out of the answer; `true` by default",
        **TIER,
        **WHO,
    },
    neutral=_NEUTRAL,
    refused={
        "max_chunks_per_doc": _NO_PARTS,
        "max_tokens_per_doc": _NO_PARTS,
        "rank_fields": "send each document's text",
        "instruction": "write it into the query, or serve the model with a score_template that has it",
    },
)


@dataclass(slots=True, frozen=True)
class ScoreRequest:
    """A request for scores.

    Attributes:
        queries: one for all documents, or one for each.
        documents: their texts.
        fields: arguments of every job.
        top_n: how many of the best are wanted; None for all, in the order given if it isn't a ranking.
        with_texts: whether the answer repeats the documents.
    """

    queries: list[str]
    documents: list[str]
    fields: dict[str, Any]
    top_n: int | None = None
    with_texts: bool = True

    def jobs(self, model: str, task: str | None) -> list[dict[str, Any]]:
        """The arguments of each job for a model made for this task; see `rank_jobs`."""
        return rank_jobs(model, task, self.queries, self.documents, self.fields)


def score_request(body: Mapping[str, Any]) -> ScoreRequest:
    """What the body of a request to `/score` asks for.

    Raises:
        InvalidJob: naming a field that is wrong or not supported.
    """
    fields = _asked(SCORE, body)
    sides: list[list[str]] = []
    called = []
    for names in (("text_1", "queries"), ("text_2", "documents")):
        given = [name for name in names if name in fields]
        if len(given) != 1:
            raise InvalidJob(names[0], f"give exactly one of {' and '.join(names)}")
        value = fields.pop(given[0])
        called.append(given[0])
        sides.append(_texts(given[0], [value] if isinstance(value, str) else value))
    queries, documents = sides
    if len(queries) not in (1, len(documents)):
        raise InvalidJob(
            called[0],
            f"has {len(queries)} texts, and {called[1]} has {len(documents)}; "
            "it must be one, or one for each",
        )
    return ScoreRequest(queries, documents, fields)


def rerank_request(body: Mapping[str, Any]) -> ScoreRequest:
    """What the body of a request to `/rerank` asks for.

    Raises:
        InvalidJob: naming a field that is wrong or not supported.
    """
    fields = _asked(RERANK, body)
    query, given = fields.pop("query", None), fields.pop("documents", None)
    if not isinstance(query, str) or not query:
        raise InvalidJob("query", "must be a text that isn't empty")
    if isinstance(given, list):
        given = [each.get("text") if isinstance(each, dict) else each for each in given]
    documents, top_n = _texts("documents", given), fields.pop("top_n", 0)
    if top_n != 0 or isinstance(top_n, bool):
        check_documents(documents, top_n)
    with_texts = flag(fields, "return_documents") if "return_documents" in fields else True
    drop(fields, ("return_documents",))
    return ScoreRequest([query], documents, fields, top_n or None, with_texts)


def one_job(asked: ScoreRequest) -> dict[str, Any]:
    """The arguments of the job for a request with one document.

    Raises:
        InvalidJob: it has several.
    """
    if len(asked.documents) > 1:
        raise InvalidJob("documents", "must be one text; a batch has a line for each")
    return asked.jobs("", None)[0]


def score_body(results: Sequence[JobResult], model: str, asked: ScoreRequest) -> dict[str, Any]:
    """The answer to a request to `/score`, in vLLM's shape."""
    scores = rank_scores(results, len(asked.queries))
    return {
        "id": f"score-{results[0].job_id}",
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "data": [{"index": index, "object": "score", "score": score} for index, score in enumerate(scores)],
        "usage": _usage(results),
    }


def rerank_body(results: Sequence[JobResult], model: str, asked: ScoreRequest) -> dict[str, Any]:
    """The answer to a request to `/rerank`, in the shape that vLLM, Jina and Cohere share; best first."""
    made = []
    for each in ranked(rank_scores(results, len(asked.queries)), asked.documents, asked.top_n):
        entry: dict[str, Any] = {"index": each.index, "relevance_score": each.score}
        if asked.with_texts:
            entry["document"] = {"text": each.document}
        made.append(entry)
    return {
        "id": f"rerank-{results[0].job_id}",
        "model": model,
        "usage": _usage(results),
        "results": made,
    }


def _usage(results: Sequence[JobResult]) -> dict[str, int]:
    tokens = sum(result.usage.prompt_tokens for result in results)
    return {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}


def _asked(endpoint: Fields, body: Mapping[str, Any]) -> dict[str, Any]:
    for name in body:
        if name in Job.model_fields and name not in endpoint.known | _QUEUE:
            raise InvalidJob(name, "has no meaning for a score; leave it out")
    fields = endpoint.asked(body)
    take_who_asks(fields)
    take_tier(fields)
    return fields


def _texts(name: str, given: object) -> list[str]:
    if not isinstance(given, list) or not given:
        raise InvalidJob(name, "must be a text or a list of texts, at least one")
    if len(given) > MAX_INPUTS:
        raise InvalidJob(name, f"has {len(given):,} texts; at most {MAX_INPUTS:,} fit one request")
    for place, each in enumerate(given):
        if not isinstance(each, str) or not each:
            raise InvalidJob(f"{name}[{place}]", "must be a text that isn't empty")
    return given
