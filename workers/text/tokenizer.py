"""The model's tokenizer and chat template.

Reading prompts takes `transformers`, writing answers does not: who only writes has `TokenText`.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

_PLAIN = {"PreTrainedTokenizerFast", "TokenizersBackend"}
"""The class that takes a tokenizer.json as it stands, by its names in transformers 4 and 5."""

_TRUSTED = {"llama", "qwen3"}
"""Model types whose checkpoints `AutoTokenizer` takes at their word when they name that class."""


class TokenizerError(ValueError):
    """The model has no tokenizer that can be used; the message says why."""


class ChatTemplateError(ValueError):
    """The model has no chat template, or its template refused the messages."""


class _Lengths(dict[int, int | None]):
    """Looks up each token once: asking the tokenizer is most of what writing a token costs."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._special_ids = frozenset(
            token_id for token_id, token in backend.get_added_tokens_decoder().items() if token.special
        )

    def __missing__(self, token_id: int) -> int | None:
        is_text = token_id not in self._special_ids and self._backend.id_to_token(token_id) is not None
        length = len(self._backend.decode([token_id])) if is_text else None
        self[token_id] = length
        return length


class TokenText:
    """Token ids to text, for one model.

    Args:
        backend: a tokenizer of the `tokenizers` library.

    Attributes:
        lengths: characters of a token's text when it stands alone, by id; None of one that can have no text,
            which is special or not in the vocabulary.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.lengths: Mapping[int, int | None] = _Lengths(backend)

    @classmethod
    def from_json(cls, serialized: str) -> "TokenText":
        """The same tokenizer as that of which this is the `to_json`."""
        return TokenText(tokenizers.Tokenizer.from_str(serialized))

    def to_json(self) -> str:
        """The tokenizer, the text of a tokenizer.json.

        Raises:
            Exception: it has parts written in Python, which have none.
        """
        serialized: str = self._backend.to_str()
        return serialized

    def decode(self, token_ids: list[int]) -> str:
        """The text of some tokens, special ones left out."""
        text: str = self._backend.decode(token_ids, skip_special_tokens=True)
        return text

    def token_text(self, token_id: int) -> str:
        """One token as text, for log-probabilities; special tokens by their names."""
        text: str = self._backend.decode([token_id], skip_special_tokens=False)
        return text


class Tokenizer(TokenText):
    """Text to token ids and back, for one model.

    Prompts get the special tokens that the tokenizer itself adds (a beginning-of-sequence token, say); chats
    get exactly those that the template writes.
    """

    def __init__(self, model: str) -> None:
        """Load the tokenizer of a local folder or Hub name; code from the repository is never run.

        Raises:
            TokenizerError: there is none, it is damaged, or it is not of the fast kind.
        """
        try:
            self._hf: Any = _tokenizer_class(model).from_pretrained(model, trust_remote_code=False)
        except Exception as error:  # what reads the files raises a bare Exception, too
            raise TokenizerError(f"the tokenizer of {model!r} can't be loaded: {error}") from error
        backend = getattr(self._hf, "backend_tokenizer", None)
        if backend is None:
            raise TokenizerError(
                f"the tokenizer of {model!r} is not a fast one; save it with tokenizer.json (`tokenizers`)"
            )
        backend.no_truncation()  # a tokenizer.json may ask for either; a prompt is never cut or filled up
        backend.no_padding()
        super().__init__(backend)

    @property
    def fingerprint(self) -> str:
        """Digest of what the tokenizer and its chat template do."""
        identity = self._backend.to_str() + json.dumps(self._hf.chat_template, sort_keys=True)
        return hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()

    def encode(self, text: str) -> list[int]:
        """The token ids of a prompt."""
        ids: list[int] = self._backend.encode(text).ids
        return ids

    def chat(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> list[int]:
        """The token ids of a conversation, ready for the assistant's next turn.

        Raises:
            ChatTemplateError: there is no template, or it failed on these messages.
        """
        return self.encode_chat(self.render(messages, tools))

    def render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> str:
        """The text of a conversation, ready for the assistant's next turn.

        Raises:
            ChatTemplateError: there is no template, or it failed on these messages.
        """
        if not self._hf.chat_template:
            raise ChatTemplateError("the model has no chat template; send a prompt instead of messages")
        try:
            text: str = self._hf.apply_chat_template(
                messages, tools=tools, add_generation_prompt=True, tokenize=False
            )
        except MemoryError:
            raise
        except Exception as error:  # templates are programs of the model's author: they raise anything
            raise ChatTemplateError(f"the chat template refused the messages: {error}") from error
        return text

    def encode_chat(self, text: str) -> list[int]:
        """The token ids of a rendered conversation: no special tokens but those in it."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids


def _tokenizer_class(model: str) -> Any:
    """What loads a model's tokenizer: `AutoTokenizer`, or, if that is known, the class which it would choose.

    Only looking for that, it imports most of transformers and parts of torch: a second of an engine's start.
    """
    import transformers  # half of what a process that only writes text would import

    if (
        _entry(model, "tokenizer_config.json", "tokenizer_class") in _PLAIN
        and _entry(model, "tokenizer_config.json", "auto_map") is None
        and _entry(model, "config.json", "model_type") in _TRUSTED
    ):
        return transformers.PreTrainedTokenizerFast
    return transformers.AutoTokenizer


def _entry(folder: str, file: str, name: str) -> Any:
    """An entry of a JSON file; None where there is no such file, or none that can be read."""
    try:
        return json.loads((Path(folder) / file).read_text(encoding="utf-8")).get(name)
    except (OSError, ValueError, AttributeError):
        return None
