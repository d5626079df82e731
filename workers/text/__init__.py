"""Token ids and text: encoding, chat templates, incremental decoding, stop strings."""

from .detokenizer import Detokenizer
from .stop_strings import StopStrings
from .stream import Emitted, TextStream
from .tokenizer import ChatTemplateError, Tokenizer, TokenizerError

__all__ = [
    "ChatTemplateError",
    "Detokenizer",
    "Emitted",
    "StopStrings",
    "TextStream",
    "Tokenizer",
    "TokenizerError",
]
