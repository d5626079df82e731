"""Reads an answer as it is written."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby

from . import deepseek, gemma, glm, harmony, hermes, llama, mistral, pythonic, qwen
from .deltas import Arguments, CallBegin, Content, Delta, Reasoning
from .format import AnswerFormat
from .reasoning import PAIRS, reasoning
from .source import GrowingText, Markers, Steps, run

_PLAIN = Markers()

_TOOLS: dict[str, Callable[[GrowingText, AnswerFormat], Steps[None]]] = {
    "hermes": hermes.answer,
    "qwen3_coder": qwen.answer,
    "llama3_json": llama.answer,
    "pythonic": pythonic.answer,
    "mistral": mistral.answer,
    "harmony": harmony.answer,
    "glm": glm.answer,
    "deepseek": deepseek.answer,
    "gemma": gemma.answer,
}


_MARKERS: dict[str, tuple[str, ...]] = {
    "mistral": mistral.MARKERS,
    "harmony": harmony.MARKERS,
    "llama3_json": (llama.MARKER,),
    "pythonic": pythonic.MARKERS,
    "deepseek": deepseek.MARKERS,
    "gemma": gemma.MARKERS,
    "glm": glm.MARKERS,
    "hermes": hermes.MARKERS,
    "qwen3_coder": hermes.MARKERS,
}


def markers_of(answer_format: AnswerFormat) -> tuple[str, ...]:
    """What marks calls and reasoning; some of it may be special tokens, which otherwise have no text."""
    pair = PAIRS.get(answer_format.reasoning or "", ())
    names = {answer_format.tools, "harmony" if answer_format.reasoning == "harmony" else None}
    return (*pair, *(marker for name in sorted(filter(None, names)) for marker in _MARKERS[name]))


class AnswerParser:
    """Reads one job's text, portion by portion.

    What it has returned after some text depends on the format and that text alone.
    """

    __slots__ = ("_source", "_steps")

    def __init__(self, answer_format: AnswerFormat) -> None:
        self._source = GrowingText(1 if answer_format.single else None)
        self._steps = _answer(self._source, answer_format)

    def feed(self, text: str) -> list[Delta]:
        """What is certain with more of the text; neighbours of the same kind come as one."""
        self._source.text += text
        return self._read() if text else []

    def end(self) -> list[Delta]:
        """The rest, when the text has ended."""
        self._source.ended = True
        return self._read()

    def _read(self) -> list[Delta]:
        deltas: list[Delta] = []
        for delta in self._steps:
            if delta is None:
                break
            deltas.append(delta)
        return deltas if len(deltas) < 2 else joined(deltas)


def _answer(source: GrowingText, answer_format: AnswerFormat) -> Steps[None]:
    reasoned = False
    if answer_format.reasoning in PAIRS:
        reasoned = yield from reasoning(source, answer_format.reasoning, begun=answer_format.begun)
    name = "harmony" if answer_format.reasoning == "harmony" else answer_format.tools
    if name is not None:
        yield from _TOOLS[name](source, answer_format)
        return
    _, space = yield from run(source, _PLAIN, Content, lead=reasoned)
    if space:
        yield Content(space)


def joined(deltas: Iterable[Delta]) -> list[Delta]:
    """The same with neighbours of one kind joined."""
    found: list[Delta] = []
    for (kind, index), some in groupby(deltas, _kind):
        if kind is CallBegin:
            found.extend(some)
            continue
        text = "".join(delta.text for delta in some if not isinstance(delta, CallBegin))
        if kind is Arguments:
            found.append(Arguments(index, text))
        else:
            found.append(Content(text) if kind is Content else Reasoning(text))
    return found


def _kind(delta: Delta) -> tuple[type[Delta], int]:
    return type(delta), delta.index if isinstance(delta, CallBegin | Arguments) else 0


@dataclass(frozen=True, slots=True)
class Called:
    """A call of a tool, with its arguments in JSON as the model wrote them."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ParsedAnswer:
    """A whole answer."""

    content: str
    reasoning: str
    calls: tuple[Called, ...]


def parse(answer_format: AnswerFormat, text: str) -> ParsedAnswer:
    """Read a whole text."""
    parser = AnswerParser(answer_format)
    return message(_both(parser, text))


def _both(parser: AnswerParser, text: str) -> Iterator[Delta]:
    yield from parser.feed(text)
    yield from parser.end()


def message(deltas: Iterable[Delta]) -> ParsedAnswer:
    """The answer that these are all pieces of."""
    content: list[str] = []
    thought: list[str] = []
    calls: list[tuple[str, list[str]]] = []
    for delta in deltas:
        match delta:
            case Content(text):
                content.append(text)
            case Reasoning(text):
                thought.append(text)
            case CallBegin(_, name):
                calls.append((name, []))
            case Arguments(index, text):
                calls[index][1].append(text)
    called = tuple(Called(name, "".join(arguments)) for name, arguments in calls)
    return ParsedAnswer("".join(content), "".join(thought), called)


def call_id(job_id: str, index: int, answer_format: AnswerFormat) -> str:
    """The id of a call, the same for whoever reads the job."""
    digits = blake2b(f"{job_id}/{index}".encode(), digest_size=12).hexdigest()
    # Mistral's templates accept only ids of nine letters and digits.
    return digits[:9] if answer_format.tools == "mistral" else f"call_{digits}"
