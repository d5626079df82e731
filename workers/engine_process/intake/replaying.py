"""Reads a job's log: the tokens of earlier workers, and the text that readers have been told."""

from contextlib import suppress
from typing import Any, cast

from pydantic import ValidationError

from ....schemas.answers import AnswerFormat
from ....schemas.events import Chunk, FailureCode, FinishReasonName, parse_event
from ....schemas.wire import WireJob
from ..prepared import Asked, Prepared, Replay
from ..text import TextStream, Tokenizer, held_after
from ..text.answer_format import shown_by
from .refusal import JobRefused


def replay(tokenizer: Tokenizer, prepared: Prepared, job: WireJob, asked: Asked) -> None:
    """Read what earlier workers have written of a job into what is prepared.

    Raises:
        JobRefused: the log isn't what was written.
    """
    chunks = []
    for payload in asked.log:
        with suppress(ValidationError):  # the tokens then don't add up to the offset
            event = parse_event(payload)
            if isinstance(event, Chunk):
                chunks.append(event)
    logged = sum(len(chunk.token_ids) for chunk in chunks)
    if logged != asked.offset:
        raise JobRefused(
            FailureCode.INVALID,
            f"its token log holds {logged} tokens, but {asked.offset} were written",
        )
    if chunks:  # what readers have been told holds, whatever the template says by now
        prepared.answer_format = travelling(chunks[0].format)
    if job.n == 1:
        prepared.replay = _replayed(tokenizer, prepared, job, chunks)
        return
    of_choices: list[list[Chunk]] = [[] for _ in range(job.n)]
    for chunk in chunks:
        if not 0 <= chunk.choice < job.n:
            raise JobRefused(FailureCode.INVALID, f"its token log has an answer {chunk.choice}")
        of_choices[chunk.choice].append(chunk)
        prepared.order.append((chunk.choice, len(chunk.token_ids)))
    prepared.replay, *prepared.others = (_replayed(tokenizer, prepared, job, own) for own in of_choices)


def _replayed(tokenizer: Tokenizer, prepared: Prepared, job: WireJob, chunks: list[Chunk]) -> Replay:
    """An answer, as far as an earlier worker generated it."""
    token_ids = [token_id for chunk in chunks for token_id in chunk.token_ids]
    replay = Replay(logged=len(token_ids))
    stream, replay.pieces, replay.stopped = _spoken(tokenizer, prepared, job, token_ids, chunks)
    replay.token_ids = token_ids[: len(replay.pieces)]
    if chunks and chunks[-1].finish_reason is not None:
        # Its text is complete. What was held back came with its last token.
        replay.finish_reason = cast("FinishReasonName", chunks[-1].finish_reason)
        replay.pieces = [piece for chunk in chunks for piece in chunk.pieces]
        replay.token_ids = token_ids
    if job.logprobs is not None:
        entries = (entry for chunk in chunks for entry in chunk.logprobs or ())
        replay.logprobs = [entry.model_dump(exclude_defaults=True) for entry in entries]
    del replay.logprobs[len(replay.token_ids) :]
    replay.position = stream.position
    return replay


def _spoken(
    tokenizer: Tokenizer, prepared: Prepared, job: WireJob, token_ids: list[int], chunks: list[Chunk]
) -> tuple[TextStream, list[str], bool]:
    """The text of some tokens, as readers have received it already."""
    after = held_after(tokenizer, prepared.prompt_ids, whole=job.prompt_token_ids is None)
    shown = shown_by(prepared.answer_format)
    read = "".join(chunk.text for chunk in chunks)
    ways = []
    for before in (after, None):  # older workers ignored the prompt
        stream = TextStream(tokenizer, job.stop, job.min_tokens, after=before, shown=shown)
        ways.append((stream, *stream.take(token_ids)))
        if "".join(ways[-1][1]) == read:
            return ways[-1]
    return ways[0]


def travelling(answer: AnswerFormat | None) -> dict[str, Any] | None:
    """How to read an answer, as it travels."""
    return None if answer is None else answer.model_dump(exclude_defaults=True)
