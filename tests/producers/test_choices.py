"""What several answers say is read for each of them, however their chunks lie in the log."""

from headrace.producers.answer_reader import AnswerReader
from headrace.producers.reading import Cursor
from headrace.schemas.answers import AnswerFormat
from headrace.schemas.events import Choice, ChoiceEnd, Chunk, End, JobResult, JobState

FORMAT = AnswerFormat(tools="hermes")
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'


def test_each_answer_has_its_own_calls_and_the_result_says_the_same():
    chunks, offset = [], 0
    for at in range(len(CALL)):
        for choice, text in enumerate((CALL, "plain", CALL)):
            if at < len(text):
                offset += 1
                last = "stop" if at == len(text) - 1 else None
                chunks.append(
                    Chunk(offset=offset, text=text[at], token_ids=(1,), choice=choice, finish_reason=last)
                )
    chunks[0] = chunks[0].model_copy(update={"format": FORMAT})
    whole = JobResult(
        job_id="j",
        state=JobState.SUCCEEDED,
        text=CALL,
        finish_reason="stop",
        format=FORMAT,
        choices=tuple(Choice(text=text, finish_reason="stop") for text in (CALL, "plain", CALL)),
    ).read()
    for begun in (0, len(chunks) // 2, len(chunks) - 1):
        reader = AnswerReader("j")
        reader.skip(chunks[:begun])
        told = [reader.explained(chunk) for chunk in chunks[begun:]]
        assert reader.rest(offset) == []
        ended = {chunk.choice: chunk.finish_reason for chunk in told if chunk.finish_reason}
        assert ended.items() <= dict(enumerate(("tool_calls", "stop", "tool_calls"))).items()
        if not begun:
            ids = [[call.id for call in chunk.tool_calls or () if call.id] for chunk in told]
            assert sorted(filter(None, ids)) == sorted(
                [call.id for call in choice.tool_calls] for choice in whole.choices if choice.tool_calls
            )
    assert [choice.finish_reason for choice in whole.choices] == ["tool_calls", "stop", "tool_calls"]
    assert [choice.content for choice in whole.choices] == [None, "plain", None]
    assert len({whole.choices[0].tool_calls[0].id, whole.choices[2].tool_calls[0].id}) == 2
    assert [answer.tool_calls for answer in whole.answers()] == [c.tool_calls for c in whole.choices]


def test_answers_that_ended_with_their_job_get_what_was_held_back():
    ended = (ChoiceEnd(choice=0, text="a", finish_reason="length"), ChoiceEnd(choice=2, finish_reason="stop"))
    end = End(offset=4, end="succeeded", text="a", finish_reason="length", choices=ended)
    chunks, obstacle = Cursor("j", 4).take_all([end.model_dump_json().encode()])
    assert obstacle is None
    assert [(chunk.choice, chunk.text, chunk.finish_reason) for chunk in chunks] == [
        (0, "a", "length"),
        (2, "", "stop"),
    ]
    one = End(offset=4, end="succeeded", text="a", finish_reason="stop")
    assert "choices" not in one.model_dump_json()
