"""What a model's text says: its answer, its reasoning and its calls of tools, as it is written.

The text in a job's log is what the model wrote. Whoever reads it derives these from it, by a pure function of
the format and the text so far: a reader that resumes anywhere, and any number of readers, see the same.
"""

from .deltas import Arguments, CallBegin, Content, Delta, Reasoning
from .format import REASONING_FORMATS, TOOL_FORMATS, AnswerFormat
from .parser import AnswerParser, Called, ParsedAnswer, call_id, markers_of, parse

__all__ = [
    "REASONING_FORMATS",
    "TOOL_FORMATS",
    "AnswerFormat",
    "AnswerParser",
    "Arguments",
    "CallBegin",
    "Called",
    "Content",
    "Delta",
    "ParsedAnswer",
    "Reasoning",
    "call_id",
    "markers_of",
    "parse",
]
