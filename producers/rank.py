"""How well documents answer queries, as jobs: scored by a model made for it, or compared by their vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..schemas.errors import InvalidJob
from ..schemas.events import JobResult


@dataclass(slots=True, frozen=True)
class Ranked:
    """A document and how well it answers a query.

    Attributes:
        index: its place among the documents that were given.
        score: from 0 to 1 from a reranker, and a cosine (-1 to 1) from an embedding model.
        document: its text.
    """

    index: int
    score: float
    document: str


def rank_jobs(
    model: str,
    task: str | None,
    queries: Sequence[str],
    documents: Sequence[str],
    arguments: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """The arguments of `enqueue` for each job.

    Args:
        model: the model, for the error.
        task: what it is made for; None if that isn't known.
        queries: one for all documents, or one for each.
        documents: their texts.
        arguments: those of every job.

    Raises:
        InvalidJob: the model is made for something else.
    """
    usual = {"stream": False, **arguments}
    if task == "embed":
        return [{**usual, "prompt": each, "embed": True} for each in (*queries, *documents)]
    if task == "generate":
        raise InvalidJob(
            "model",
            f"{model!r} is made to generate, and has no head that scores; name a reranker or an embedding "
            "model, or, if it answers with one of two words, serve it with classifier_from_token",
        )
    every = queries if len(queries) == len(documents) else [queries[0]] * len(documents)
    return [
        {**usual, "prompt": query, "document": document}
        for query, document in zip(every, documents, strict=True)
    ]


def rank_scores(results: Sequence[JobResult], queries: int) -> list[float]:
    """The score of each document, from the results of `rank_jobs` for this number of queries."""
    if results[0].embedding is None:
        return [result.score or 0.0 for result in results]
    vectors = [result.embedding or () for result in results]
    asked, documents = vectors[:queries], vectors[queries:]
    every = asked if len(asked) == len(documents) else asked * len(documents)
    # Of length 1, as they are by default.
    return [
        sum(one * other for one, other in zip(query, vector, strict=True))
        for query, vector in zip(every, documents, strict=True)
    ]


def ranked(scores: Sequence[float], documents: Sequence[str], top_n: int | None) -> list[Ranked]:
    """The documents, best first; of equal ones the first given comes first."""
    made = [Ranked(index, score, documents[index]) for index, score in enumerate(scores)]
    made.sort(key=lambda each: -each.score)
    return made[:top_n]


def check_documents(documents: object, top_n: object) -> list[str]:
    """The documents as a list.

    Raises:
        InvalidJob: there are none, one is no text or empty, or `top_n` is no number of them.
    """
    if isinstance(documents, str) or not isinstance(documents, Sequence) or not documents:
        raise InvalidJob("documents", "must be a list of at least one text")
    for place, each in enumerate(documents):
        if not isinstance(each, str) or not each:
            raise InvalidJob(f"documents[{place}]", f"must be a text that isn't empty, not {_shown(each)}")
    if top_n is not None and (not isinstance(top_n, int) or isinstance(top_n, bool) or top_n < 1):
        raise InvalidJob("top_n", f"must be a whole number of at least 1, not {_shown(top_n)}")
    return list(documents)


def _shown(value: object) -> str:
    return "one" if value == "" else str(value) if isinstance(value, int | float) else type(value).__name__
