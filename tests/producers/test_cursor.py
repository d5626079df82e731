import pytest

from headrace.producers.reading import Cursor, Gap
from headrace.schemas.errors import StreamReset
from headrace.schemas.events import Chunk, End, JobState, TokenLogprob


def chunk(start: int, end: int) -> Chunk:
    return Chunk(offset=end, text=f"{start}-{end}", token_ids=tuple(range(start, end)))


def end(offset: int, text: str = "") -> End:
    return End(offset=offset, end=JobState.SUCCEEDED, text=text, finish_reason="length")


def test_every_token_is_taken_once() -> None:
    cursor = Cursor("j", 0)
    taken = [cursor.take(piece) for piece in (chunk(0, 3), chunk(0, 3), chunk(3, 4))]
    assert taken == [chunk(0, 3), None, chunk(3, 4)]


def test_a_missing_chunk_is_a_gap() -> None:
    cursor = Cursor("j", 0)
    with pytest.raises(Gap):
        cursor.take(chunk(1, 2))
    with pytest.raises(Gap):
        cursor.take(end(1))


def test_a_cursor_inside_a_chunk_takes_the_tokens_after_it_with_their_text() -> None:
    logprobs = tuple(TokenLogprob(token_id=i, token=str(i), logprob=-1.0) for i in range(4))
    whole = Chunk(offset=4, text="abcde", token_ids=(0, 1, 2, 3), logprobs=logprobs, lengths=(1, 0, 2))
    assert Cursor("j", 1).take(whole) == Chunk(
        offset=4, text="bcde", token_ids=(1, 2, 3), logprobs=logprobs[1:], lengths=(0, 2)
    )
    assert Cursor("j", 3).take(whole) == Chunk(offset=4, text="de", token_ids=(3,), logprobs=logprobs[3:])


def test_a_cursor_inside_a_chunk_of_an_earlier_worker_takes_the_whole_text() -> None:
    taken = Cursor("j", 3).take(Chunk(offset=4, text="0123", token_ids=(0, 1, 2, 3)))
    assert taken == Chunk(offset=4, text="0123", token_ids=(3,))


def test_an_overlap_with_what_was_delivered_is_a_reset() -> None:
    cursor = Cursor("j", 0)
    cursor.take(chunk(0, 3))
    with pytest.raises(StreamReset) as caught:
        cursor.take(chunk(2, 5))
    assert (caught.value.seen, caught.value.offset) == (3, 2)


def test_an_end_before_what_was_seen_is_a_reset() -> None:
    with pytest.raises(StreamReset):
        Cursor("j", 3).take(end(2))


def test_the_text_of_the_end_is_a_last_chunk_without_tokens() -> None:
    cursor = Cursor("j", 2)
    assert cursor.take(end(2, "tail")) == Chunk(offset=2, text="tail")
    assert Cursor("j", 2).take(end(2)) is None


def test_what_was_taken_before_a_reset_is_kept() -> None:
    cursor = Cursor("j", 0)
    chunks, obstacle = cursor.take_all(
        piece.model_dump_json().encode() for piece in (chunk(0, 2), chunk(1, 3), chunk(3, 4))
    )
    assert chunks == [chunk(0, 2)]
    assert isinstance(obstacle, StreamReset)
