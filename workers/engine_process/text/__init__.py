"""Token ids and text: encoding, chat templates, incremental decoding, stop strings."""

from .detokenizer import Detokenizer, Held, held_after
from .messages import wrong_tool
from .stop_strings import StopStrings
from .stream import Emitted, Position, TextStream
from .tokenizer import ChatTemplateError, Tokenizer, TokenizerError, TokenText

__all__ = [
    "ChatTemplateError",
    "Detokenizer",
    "Emitted",
    "Held",
    "Position",
    "StopStrings",
    "TextStream",
    "TokenText",
    "Tokenizer",
    "TokenizerError",
    "held_after",
    "wrong_tool",
]
