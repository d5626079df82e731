"""Token ids and text: encoding, chat templates, incremental decoding, stop strings."""

from .answer_format import shown_by
from .detokenizer import Detokenizer, Held, held_after
from .grammar import Follower, GrammarError, Grammars, grammar_of
from .stop_strings import StopStrings
from .stream import Emitted, Position, TextStream
from .tokenizer import ChatTemplateError, Tokenizer, TokenizerError, TokenText

__all__ = [
    "ChatTemplateError",
    "Detokenizer",
    "Emitted",
    "Follower",
    "GrammarError",
    "Grammars",
    "Held",
    "Position",
    "StopStrings",
    "TextStream",
    "TokenText",
    "Tokenizer",
    "TokenizerError",
    "grammar_of",
    "held_after",
    "shown_by",
]
