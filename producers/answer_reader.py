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
from ..schemas.events import Chunk, FunctionDelta, ToolCallDelta, answer_id


class AnswerReader:
    """Reads one job's stream from its first token.

    What it says of a chunk depends on the text up to its end alone, so readers that begin at different times,
    and read other portions, say the same.
    """

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._format: AnswerFormat | None = None
        self._parsers: dict[int, AnswerParser] = {}
        self._calling: set[int] = set()

    def skip(self, before: Iterable[Chunk]) -> None:
        """Begin after these chunks, of which nothing is told."""
        for chunk in before:
            self.read(chunk)

    def read(self, chunk: Chunk) -> list[Delta]:
        """What is certain with this chunk; its text, if it is read as it is."""
        self._format = self._format or chunk.format
        if self._format is None:
            return [Content(chunk.text)] if chunk.text else []
        parser = self._parsers.get(chunk.choice)
        if parser is None:
            parser = self._parsers[chunk.choice] = AnswerParser(self._format)
        deltas = parser.feed(chunk.text)
        if chunk.finish_reason is not None:
            deltas = [*deltas, *parser.end()]
            del self._parsers[chunk.choice]
        if any(isinstance(delta, CallBegin) for delta in deltas):
            self._calling.add(chunk.choice)
        return deltas

    def finish_reason(self, chunk: Chunk) -> str | None:
        """Why the chunk's answer ended with it, as a result would say; call it once it has been read."""
        calls = chunk.finish_reason == "stop" and chunk.choice in self._calling
        return "tool_calls" if calls else chunk.finish_reason

    def end(self) -> list[Delta]:
        """The rest of the only answer, once the stream has ended."""
        parser = self._parsers.pop(0, None)
        return [] if parser is None else parser.end()

    def explained(self, chunk: Chunk) -> Chunk:
        """The chunk with what it says, if the text is read in a format."""
        deltas = self.read(chunk)
        return chunk if self._format is None else self._saying(chunk, deltas)

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
                    calls.append(
                        ToolCallDelta(index=index, id=self.call_id(index, chunk.choice), function=began)
                    )
                case Arguments(index, text):
                    calls.append(ToolCallDelta(index=index, function=FunctionDelta(arguments=text)))
        said = {
            "content": content or None,
            "reasoning": reasoning or None,
            "tool_calls": tuple(calls) or None,
            "finish_reason": self.finish_reason(chunk),
        }
        return chunk.model_copy(update=said)

    def call_id(self, index: int, choice: int = 0) -> str:
        """The id of a call."""
        return call_id(answer_id(self._job_id, choice), index, self._format or AnswerFormat())
