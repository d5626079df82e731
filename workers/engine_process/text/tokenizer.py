"""The model's tokenizer and chat template.

Reading prompts needs `transformers`; writing answers only needs `TokenText`.
"""

import hashlib
import inspect
import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from .messages import Messages, renderings, takes
from .pairs import pair_of
from .token_bytes import token_bytes

_PLAIN = {"PreTrainedTokenizerFast", "TokenizersBackend"}
"""The class that loads a tokenizer.json unchanged, by its names in transformers 4 and 5."""

_TRUSTED = {"llama", "qwen3"}
"""Model types whose checkpoints `AutoTokenizer` trusts if they name that class."""


class TokenizerError(ValueError):
    """The model has no tokenizer that can be used; the message says why."""


class ChatTemplateError(ValueError):
    """The model has no chat template, or its template refused the messages."""


class _Lengths(dict[int, int | None]):
    """Caches each token's lookup, because asking the tokenizer is most of the cost of writing a token."""

    def __init__(self, backend: Any, special_ids: frozenset[int]) -> None:
        self._backend, self._special_ids = backend, special_ids

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
        lengths: number of characters of a token's text on its own, by id; None for a token without text,
            because it is special or not in the vocabulary.
        token_bytes: the bytes that a token stands for; for special ones those of their names.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        added = backend.get_added_tokens_decoder()
        self._specials = {token.content: token_id for token_id, token in added.items() if token.special}
        special_ids = frozenset(self._specials.values())
        self.lengths: Mapping[int, int | None] = _Lengths(backend, special_ids)
        self.token_bytes = token_bytes(backend, special_ids)

    @classmethod
    def from_json(cls, serialized: str) -> "TokenText":
        """The tokenizer of which this is the `to_json`."""
        return TokenText(tokenizers.Tokenizer.from_str(serialized))

    def to_json(self) -> str:
        """The tokenizer, the text of a tokenizer.json.

        Raises:
            Exception: it has parts written in Python, which can't be written as JSON.
        """
        serialized: str = self._backend.to_str()
        return serialized

    def id_of(self, name: str) -> int | None:
        """The token with this name in the vocabulary; None if there is none."""
        token_id: int | None = self._backend.token_to_id(name)
        return token_id

    def decode(self, token_ids: list[int]) -> str:
        """The text of some tokens, without special ones."""
        text: str = self._backend.decode(token_ids, skip_special_tokens=True)
        return text

    def token_text(self, token_id: int) -> str:
        """One token as text, for log-probabilities: special ones by name, parts of characters as U+FFFD."""
        return self.token_bytes(token_id).decode(errors="replace")

    def specials_in(self, text: str) -> dict[str, int]:
        """The special tokens that a text names, by name."""
        if not self._specials or not text:
            return {}
        return {name: self._specials[name] for name in self._special_names.findall(text)}

    @cached_property
    def _special_names(self) -> re.Pattern[str]:
        longest_first = sorted(self._specials, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)))


class Tokenizer(TokenText):
    """Text to token ids and back, for one model.

    Prompts get the special tokens that the tokenizer itself adds (such as a beginning-of-sequence token);
    chats get exactly those that the template writes.
    """

    def __init__(self, model: str, *, sanitize: bool = False) -> None:
        """Load the tokenizer of a local folder or Hub name; code from the repository is never run.

        Args:
            model: the folder or name.
            sanitize: treat names of control tokens in messages as plain text.

        Raises:
            TokenizerError: it is missing, damaged, or not a fast one; or this version of transformers can't
                sanitize.
        """
        self._sanitize = sanitize
        try:
            self._hf: Any = _tokenizer_class(model).from_pretrained(model, trust_remote_code=False)
        except Exception as error:  # what reads the files raises a bare Exception, too
            raise TokenizerError(f"the tokenizer of {model!r} can't be loaded: {error}") from error
        backend = getattr(self._hf, "backend_tokenizer", None)
        if backend is None:
            raise TokenizerError(
                f"the tokenizer of {model!r} is not a fast one; save it as tokenizer.json (`tokenizers`)"
            )
        if sanitize and not _can_sanitize(self._hf):
            raise TokenizerError("sanitize_control_tokens needs transformers 5.24 or newer")
        backend.no_truncation()  # a tokenizer.json may ask for either; a prompt is never cut or filled up
        backend.no_padding()
        super().__init__(backend)

    @property
    def fingerprint(self) -> str:
        """A digest of what the tokenizer and its chat template do."""
        try:
            tokenizer = self._backend.to_str()
        except Exception:  # parts of it are written in Python: they are known by whose they are
            vocabulary = sorted(self._backend.get_vocab(with_added_tokens=True).items())
            tokenizer = json.dumps([type(self._hf).__qualname__, vocabulary])
        identity = tokenizer + json.dumps(self._hf.chat_template, sort_keys=True)
        identity += "without control tokens of users" if self._sanitize else ""
        return hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a text, as far as the tokenizer knows."""
        token_id = self._hf.eos_token_id
        return token_id if isinstance(token_id, int) else None

    @property
    def takes_tools(self) -> bool:
        """Whether the chat template does anything with tools."""
        return takes(self._hf.chat_template, "tools")

    @property
    def template(self) -> str | dict[str, str] | None:
        """The chat template, or several by name."""
        template: str | dict[str, str] | None = self._hf.chat_template
        return template

    def added_token(self, name: str) -> int | None:
        """The added token of this name, special or not; None if it is spelt like other text."""
        found: int | None = self._backend.token_to_id(name)
        return found if found in self._backend.get_added_tokens_decoder() else None

    def knows(self, variable: str) -> bool:
        """Whether the chat template reads a variable of this name."""
        return takes(self._hf.chat_template, variable)

    @property
    def template_arguments(self) -> frozenset[str]:
        """Names that rendering takes for itself, so that no template's variable can have them."""
        return frozenset(inspect.signature(self._hf.apply_chat_template).parameters)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """The token ids of a prompt; `special`: with those that the tokenizer adds."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=special).ids
        return ids

    def name_of(self, token_id: int) -> str | None:
        """A token's name in the vocabulary; None if it isn't there."""
        name: str | None = self._backend.id_to_token(token_id)
        return name

    def encode_pair(self, query: str, document: str, template: str | None) -> list[int]:
        """The token ids of a query and a document.

        Args:
            query: its text.
            document: its text.
            template: a chat template of both, whose special tokens are all there are; None to put one behind
                the other, as a prompt.

        Raises:
            ChatTemplateError: the template failed.
        """
        if template is None:
            return self.encode(query + document)
        options: dict[str, Any] = {"chat_template": template, "tokenize": self._sanitize}
        if self._sanitize:
            options |= {"return_dict": False, "sanitize_control_tokens": True}
        try:
            made = self._hf.apply_chat_template(pair_of(query, document), **options)
        except MemoryError:
            raise
        except Exception as error:  # a template is a program, and may raise anything
            raise ChatTemplateError(f"the template of queries and documents failed: {error}") from error
        ids: list[int] = made if self._sanitize else self.encode(made, special=False)
        return ids

    def spelt_out(self, token_ids: list[int]) -> str:
        """The text of some tokens, special ones too."""
        text: str = self._backend.decode(token_ids, skip_special_tokens=False)
        return text

    def chat(self, messages: Messages, tools: list[dict[str, Any]] | None = None) -> list[int]:
        """The token ids of a conversation, ready for the assistant's next turn.

        Raises:
            ChatTemplateError: there is no template, or it failed on these messages.
        """
        return self.encode_chat(self.render(messages, tools), messages, tools)

    def render(
        self,
        messages: Messages,
        tools: list[dict[str, Any]] | None = None,
        *,
        begun: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The text of a conversation.

        Args:
            messages: the conversation.
            tools: its tools.
            begun: end it with the beginning of the assistant's next turn.
            variables: more of what the template reads.

        Raises:
            ChatTemplateError: there is no template, or it failed on these messages.
        """
        options = {**(variables or {}), "tokenize": False, "add_generation_prompt": begun}
        text: str = self._apply(messages, tools, **options)
        return text

    def _apply(self, messages: Messages, tools: list[dict[str, Any]] | None, **options: Any) -> Any:
        """Render the first form of the conversation that the template accepts."""
        if not self._hf.chat_template:
            raise ChatTemplateError("the model has no chat template; send a prompt instead of messages")
        refused: Exception | None = None
        for form in renderings(messages):
            try:
                return self._hf.apply_chat_template(form, tools=tools, **options)
            except MemoryError:
                raise
            except Exception as error:  # templates are programs by the model's author and may raise anything
                refused = refused or error
        raise ChatTemplateError(f"the chat template refused the messages: {refused}") from refused

    def encode_chat(
        self,
        text: str,
        messages: Messages,
        tools: list[dict[str, Any]] | None = None,
        *,
        begun: bool = True,
        special: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The token ids of a rendered conversation, with only those special tokens that are in it.

        Args:
            text: what `render` made of it.
            messages: the conversation.
            tools: its tools.
            begun: whether the text ends with the beginning of the assistant's next turn.
            special: also with those that the tokenizer adds to a prompt.
            variables: what else `render` was given.

        Raises:
            ChatTemplateError: its control tokens can't be told from the template's.
        """
        if self._sanitize:
            options = {"tokenize": True, "return_dict": False, "sanitize_control_tokens": True}
            options = {**(variables or {}), **options, "add_generation_prompt": begun}
            safe: list[int] = self._apply(messages, tools, **options)
            return self._with_added(safe) if special else safe
        ids: list[int] = self._backend.encode(text, add_special_tokens=special).ids
        return ids

    def _with_added(self, ids: list[int]) -> list[int]:
        """The tokens of a text with those that the tokenizer adds before and after any."""
        bare, whole = self.encode("a", special=False), self.encode("a")
        at = next(at for at in range(len(whole)) if whole[at : at + len(bare)] == bare)
        return whole[:at] + ids + whole[at + len(bare) :]


def _can_sanitize(tokenizer: Any) -> bool:
    return "sanitize_control_tokens" in inspect.signature(tokenizer.apply_chat_template).parameters


def _tokenizer_class(model: str) -> Any:
    """The class that loads a model's tokenizer: `AutoTokenizer` or, if known, the class that it would choose.

    To find that class, `AutoTokenizer` imports most of transformers and parts of torch, which takes a second
    of an engine's start.
    """
    import transformers  # half of what a process that only writes text would import

    if (
        _entry(model, "tokenizer_config.json", "tokenizer_class") in _PLAIN
        and _entry(model, "tokenizer_config.json", "auto_map") is None
        and _entry(model, "config.json", "model_type") in _TRUSTED
    ):
        return transformers.PreTrainedTokenizerFast
    return transformers.AutoTokenizer


def import_tokenizers() -> None:
    """Import what loading a model's tokenizer would, so that loading one takes less time."""
    import transformers

    transformers.PreTrainedTokenizerFast  # noqa: B018  (imported when it is first used)


def _entry(folder: str, file: str, name: str) -> Any:
    """An entry of a JSON file; None if the file is missing or can't be read."""
    try:
        return json.loads((Path(folder) / file).read_text(encoding="utf-8")).get(name)
    except (OSError, ValueError, AttributeError):
        return None
