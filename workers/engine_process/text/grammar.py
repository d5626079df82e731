"""Grammars: which tokens may come next in an answer that must have a form. `llguidance` does the work.

A job asks for a form in one of several ways; each becomes the text of a grammar (`grammar_of`), and a grammar
becomes a `Follower` for one answer, whose state is a function of the tokens that it has been told. So nothing
of it is stored: a worker that takes over a job tells a new follower the tokens in the job's log.

A grammar comes from outside, so compiling it and following it are bounded by `_LIMITS`: one that needs more
ends its job, and no other. Intake compiles it first, under its limits of time and memory; only one that has
passed there reaches the engine process.
"""

import json
import re
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from time import perf_counter, thread_time
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from ....schemas.wire import WireJob
from .tokenizer import TokenText

WHITESPACE = r"[\x20\x0A\x0D\x09]{1,64}"
"""Between JSON's tokens. Without a bound, small models write line breaks up to max_tokens."""

_LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,  # 20 ms to compile the lexer
    step_lexer_fuel=50_000,  # 4 ms for a mask
    step_max_items=20_000,  # 1 ms for a mask
    max_items_in_row=2000,
    max_lexer_states=20_000,  # 40 MB, the most that a follower holds
    max_grammar_size=100_000,
    verbose_errors=False,  # which would quote the grammar and the text
)

FOLLOW_S, FOLLOW_S_A_TOKEN = 0.5, 0.005
"""CPU time that following an answer may take, in all and for each of its tokens. Most masks take 0.02 ms; an
ambiguous grammar within `_LIMITS` takes up to 150 ms, and every answer of the batch waits for that."""

SLOW_S = 0.001
"""From the first mask or token on that takes longer, an answer's CPU time is counted. To ask for it each time
would take as long as most masks do."""

MOST_KEPT, MOST_KEPT_BYTES, MOST_KEPT_S = 64, 2 * 1024 * 1024, 5.0
"""How many compiled grammars are kept, the size of their texts, and the CPU time that compiling them took:
what they hold grows with it, by up to 100 MB a second."""

_LONGEST_REASON = 300

_NO_TEXT = "no text of this model's tokens follows it"


class GrammarError(ValueError):
    """The grammar can't be compiled or followed; the message says why."""


def grammar_of(job: WireJob) -> str | None:
    """The grammar of the form that a job asks for; None if it asks for none."""
    if (asked := job.response_format) is not None:
        named = asked.get("json_schema")
        if named is None:
            return json_grammar({"type": "object"})
        return json_grammar(named["schema"], lenient=named.get("strict") is False)
    if (outputs := job.structured_outputs) is None:
        return None
    if (schema := outputs.get("json")) is not None:
        return json_grammar(schema)
    if (regex := outputs.get("regex")) is not None:
        return LLMatcher.grammar_from_regex(regex)
    if (choice := outputs.get("choice")) is not None:
        # A terminal, in capitals: all choices are one lexeme, and not one each.
        return lark_grammar("start: CHOICE\nCHOICE: " + " | ".join(map(lark_string, choice)))
    if (lark := outputs.get("grammar")) is not None:
        return lark_grammar(lark)
    return json_grammar({"type": "object"})


def json_grammar(schema: dict[str, Any], *, lenient: bool = False) -> str:
    """The grammar of JSON that follows a schema.

    Args:
        schema: the schema. Properties are written in its order.
        lenient: let keywords that can't be enforced go unheeded.
    """
    options: Any = _options(lenient)
    # The schema as a text, in which the order of properties is that of the schema.
    return LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=options)


def lark_grammar(lark: str) -> str:
    """The grammar of a text in llguidance's variant of Lark; `<|name|>` in it stands for a special token."""
    return LLMatcher.grammar_from_lark(lark)


def either(*grammars: str, lead: str = "", rules: Sequence[str] = ()) -> str:
    """The grammar of a text that follows one of these, which are texts of Lark or of `grammar_of`.

    Args:
        grammars: what the text may follow.
        lead: what comes before, as a part of a Lark rule.
        rules: the rules that `lead` names.
    """
    named = [{**_first(grammar), "name": f"g{place}"} for place, grammar in enumerate(grammars)]
    start = " | ".join(f"@{each['name']}" for each in named)
    lark = "\n".join([f"start: {lead}({start})", *rules])
    return json.dumps({"grammars": [{"lark_grammar": lark}, *named]}, ensure_ascii=False)


def _first(grammar: str) -> dict[str, Any]:
    if not grammar.startswith("{"):  # as no text of Lark does
        return {"lark_grammar": grammar}
    found: dict[str, Any] = json.loads(grammar)["grammars"][0]
    return found


def lark_json(schema: dict[str, Any], *, lenient: bool = False) -> str:
    """JSON that follows a schema, as a part of a Lark grammar's rule; see `json_grammar`."""
    return f"%json {json.dumps({**schema, 'x-guidance': _options(lenient)})}"


def _options(lenient: bool) -> dict[str, Any]:
    return {"whitespace_pattern": WHITESPACE, "lenient": lenient, "coerce_one_of": lenient}


def lark_string(text: str) -> str:
    """A text as a string of a Lark grammar."""
    return json.dumps(text, ensure_ascii=False)


class Follower:
    """Follows one answer and says which tokens may come next in it (an engine's `TokenConstraint`)."""

    def __init__(self, matcher: LLMatcher, words: int) -> None:
        self._matcher, self._taken, self._words = matcher, 0, words
        self._clock, self._spent_s = perf_counter, 0.0
        self._mask: NDArray[np.int32] | None = None
        self._own = np.zeros(0, np.int32)
        self._address = self._bytes = 0

    @property
    def taken(self) -> int:
        """Number of output tokens that it has been told."""
        return self._taken

    def take(self, token_ids: Sequence[int]) -> None:
        """Follow these output tokens, which come next.

        Raises:
            GrammarError: they don't continue the answer as the grammar allows, or finding out takes too long.
        """
        for token_id in token_ids:
            began = self._clock()
            if not self._matcher.consume_token(token_id):
                raise GrammarError(_reason(self._matcher, f"token {token_id} doesn't follow the grammar"))
            self._taken += 1
            self._spend(began)

    @property
    def complete(self) -> bool:
        """Whether the answer may end here."""
        return self._matcher.is_accepting()

    def copy(self) -> "Follower":
        """Another one in the same state."""
        assert not self._taken
        return Follower(self._matcher.deep_copy(), self._words)

    def forced(self) -> list[int]:
        """The tokens that come next in any case."""
        return self._matcher.compute_ff_tokens()

    def fill(self, mask: NDArray[np.int32]) -> bool:
        """Write which tokens may come next: the end tokens only where the answer may end.

        Returns:
            True: there are always some that may not.

        Raises:
            GrammarError: finding out takes more than the limits allow.
        """
        began = self._clock()
        if mask is not self._mask:
            self._write_to(mask)
        self._matcher.unsafe_compute_mask_ptr(self._address, self._bytes)
        if self._matcher.is_error():
            why = _reason(self._matcher, "it allows no token")
            raise GrammarError(f"the answer's grammar can't be followed: {why}")
        if len(self._own):
            mask[:] = self._own[: len(mask)]
        self._spend(began)
        return True

    def _spend(self, began: float) -> None:
        taken_s = self._clock() - began
        if self._clock is perf_counter:
            if taken_s > SLOW_S:
                self._clock = thread_time
            return
        self._spent_s += taken_s
        if self._spent_s > FOLLOW_S + FOLLOW_S_A_TOKEN * self._taken:
            took = f"{self._spent_s:.1f} s for {self._taken} tokens"
            raise GrammarError(f"following the answer's grammar took {took}; make it less ambiguous")

    def _write_to(self, mask: NDArray[np.int32]) -> None:
        """Find the mask's address once: for every token, asking numpy would take as long as a mask does."""
        self._mask = mask
        if len(mask) != self._words:  # the tokenizer names tokens that the model doesn't have
            self._own = np.zeros(self._words, np.int32)
        target = self._own if len(self._own) else mask
        self._address, self._bytes = target.ctypes.data, target.nbytes


class Grammars:
    """Compiles grammars for one tokenizer, and keeps those used last. Safe to call from any thread.

    Args:
        tokenizer: the model's tokenizer.
        vocab_size: number of tokens that the model knows; those of the tokenizer if 0.
        eos_token_ids: the tokens that end an answer; the tokenizer's if empty.
    """

    def __init__(self, tokenizer: TokenText, vocab_size: int = 0, eos_token_ids: Sequence[int] = ()) -> None:
        self._refused = ""
        try:
            self._tokenizer = _tokenizer(tokenizer.to_json(), vocab_size, sorted(eos_token_ids))
        except Exception as error:  # parts of it are written in Python, or llguidance doesn't know them
            self._refused = f"the model's tokenizer can't be used for it: {error}"
            return
        self._words = -(-self._tokenizer.vocab_size // 32)
        self._lock = Lock()
        self._kept: OrderedDict[str, tuple[LLMatcher, float]] = OrderedDict()
        self._kept_bytes, self._kept_s = 0, 0.0

    def follow(self, grammar: str, token_ids: Sequence[int] = ()) -> Follower:
        """A follower of an answer that has begun with these tokens.

        Raises:
            GrammarError: the grammar can't be compiled, or the tokens don't follow it.
        """
        if self._refused:
            raise GrammarError(self._refused)
        follower = Follower(self._compiled(grammar), self._words)
        follower.take(token_ids)
        return follower

    def _compiled(self, grammar: str) -> LLMatcher:
        with self._lock:
            kept = self._kept.get(grammar)
            if kept is not None:
                self._kept.move_to_end(grammar)
                return kept[0].deep_copy()
        began = thread_time()
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise GrammarError(_reason(matcher, "it can't be compiled"))
        # The first mask is that of every answer: computed once here, the copies have what it needed. One
        # more, after the tokens that every answer begins with, finds what only then is too much: thousands of
        # properties, say, each of which may come first.
        first = np.zeros(self._words, np.int32)
        Follower(matcher, self._words).fill(first)
        if not first.any():
            raise GrammarError(_NO_TEXT)
        further = Follower(matcher.deep_copy(), self._words)
        further.take(further.forced())
        further.fill(first)
        with self._lock:
            if grammar not in self._kept:
                self._kept[grammar] = matcher, (took_s := thread_time() - began)
                self._kept_bytes += len(grammar)
                self._kept_s += took_s
            while self._kept and (
                len(self._kept) > MOST_KEPT
                or self._kept_bytes > MOST_KEPT_BYTES
                or self._kept_s > MOST_KEPT_S
            ):
                oldest, (_, its_s) = self._kept.popitem(last=False)
                self._kept_bytes -= len(oldest)
                self._kept_s -= its_s
        return matcher.deep_copy()


def _tokenizer(serialized: str, vocab_size: int, eos_token_ids: list[int]) -> LLTokenizer:
    ends = eos_token_ids or None
    try:
        return LLTokenizer(serialized, n_vocab=vocab_size or None, eos_token=ends)
    except ValueError:
        if not vocab_size:
            raise
        return LLTokenizer(serialized, eos_token=ends)  # it names tokens that the model doesn't have


def unquoted(reason: str) -> str:
    """A reason without the place and the lines of Lark that it quotes, for grammars that no client wrote."""
    return re.split(r" \d+ \| ", re.sub(r"^at \d+\(\d+\): ", "", reason))[0]


def _reason(matcher: LLMatcher, otherwise: str) -> str:
    lines = (matcher.get_error() or otherwise).split("<state>")[0].replace("<non-verbose/>", "").splitlines()
    # Lark's errors quote the line and point at the place, in lines of their own.
    reason = " ".join(" ".join(lines).split())
    if reason == "NoExtensionBias":  # a schema that refers to nothing but itself, say
        return _NO_TEXT
    return reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}…"
