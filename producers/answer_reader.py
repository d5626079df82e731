"""What the chunks of a stream say, piece by piece: the answer, its reasoning, its calls of tools."""

from collections.abc import Iterable

from ..schemas.answers import (
    AnswerFormat,
    AnswerParser,
    Arguments,
    CallBegin,
    Content,
    Delta,
    Reasoning,
    call_id,
)
from ..schemas.events import Chunk, FunctionDelta, ToolCallDelta


class AnswerReader:
    """Reads one job's stream from its first token.

    What it says of a chunk depends on the text up to its end alone, so readers that begin at different times,
    and read other portions, say the same.
    """

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._parser: AnswerParser | None = None
        self._format = AnswerFormat()

    def skip(self, answer_format: AnswerFormat, text: str) -> None:
        """Begin after this text, of which nothing is told."""
        self._format, self._parser = answer_format, AnswerParser(answer_format)
        self._parser.feed(text)

    def read(self, chunk: Chunk) -> list[Delta]:
        """What is certain with this chunk; its text, if it is read as it is."""
        if self._parser is None and chunk.format is not None:
            self._format = chunk.format
            self._parser = AnswerParser(chunk.format)
        if self._parser is not None:
            return self._parser.feed(chunk.text)
        return [Content(chunk.text)] if chunk.text else []

    def end(self) -> list[Delta]:
        """The rest, once the stream has ended."""
        return [] if self._parser is None else self._parser.end()

    def explained(self, chunk: Chunk) -> Chunk:
        """The chunk with what it says, if the text is read in a format."""
        deltas = self.read(chunk)
        return chunk if self._parser is None else self._saying(chunk, deltas)

    def rest(self, offset: int) -> list[Chunk]:
        """What was held back until the end, if anything was: a chunk without text and tokens."""
        deltas = self.end()
        return [self._saying(Chunk(offset=offset, text=""), deltas)] if deltas else []

    def _saying(self, chunk: Chunk, deltas: Iterable[Delta]) -> Chunk:
        content, reasoning, calls = "", "", []
        for delta in deltas:
            match delta:
                case Content(text):
                    content += text
                case Reasoning(text):
                    reasoning += text
                case CallBegin(index, name):
                    began = FunctionDelta(name=name)
                    calls.append(ToolCallDelta(index=index, id=self.call_id(index), function=began))
                case Arguments(index, text):
                    calls.append(ToolCallDelta(index=index, function=FunctionDelta(arguments=text)))
        said = {"content": content or None, "reasoning": reasoning or None}
        return chunk.model_copy(update={**said, "tool_calls": tuple(calls) or None})

    def call_id(self, index: int) -> str:
        """The id of a call."""
        return call_id(self._job_id, index, self._format)
