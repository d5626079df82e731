"""How calls begin that a model may write but need not, and the grammars of what follows.

The grammar of a begun call is that of a required one with more freedom: a function that isn't strict takes
any arguments that are well-formed.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from ....schemas.answers import AnswerFormat, deepseek, harmony, hermes, llama, mistral
from ....schemas.tools import function_name
from ....schemas.wire import WireJob
from .call_grammar import ENFORCED, CallGrammar, Function, is_token
from .grammar import lark_grammar, lark_string
from .guide import Opening

_MARKERS = {
    "hermes": hermes.OPENS,
    "qwen3_coder": hermes.OPENS,
    "glm": hermes.OPENS,
    "mistral": mistral.OPENS,
    "deepseek": deepseek.ALL_OPEN,
}
"""What begins calls, in formats where that is one marker anywhere in the answer."""

_SPACE = r"/[ \t\n]{0,8}/"
_TO = "to=functions"


class _BegunCall(CallGrammar):
    def __init__(self, answer_format: AnswerFormat, literal: Callable[[str], str]) -> None:
        super().__init__(answer_format, literal)
        self._gap, self._opening = "gap", self._begins
        self._any_value = ""  # once there is a rule for it

    def text(self, functions: Any, *, several: bool) -> str:
        begun: str = getattr(self, _WAYS[self._format.tools or ""])(functions, several)
        return "\n".join([f"start: {begun}", f"gap: {_SPACE}", *self._rules]) + "\n"

    def _begins(self, marker: str) -> str:
        # Spelt in several tokens, the marker may begin within one.
        written = self._literal(marker)
        return written if is_token(written) else self._until("before", marker)

    def _arguments(self, at: int, function: Function) -> str:
        any_object = {"parameters": {"type": "object"}}
        return super()._arguments(at, function if function.get("strict") else any_object)

    def _parameters(self, at: int, function: Function, head: Any, ends: str, before: str, after: str) -> str:
        if function.get("strict"):
            return super()._parameters(at, function, head, ends, before, after)
        if not self._any_value:
            self._rules.append(r"anyname: /[^<>\n]{1,128}/")
            self._any_value = self._until("anyvalue", ends)
        value = self._any_value
        opened = head("\0")
        pieces = opened if isinstance(opened, tuple) else tuple(re.split("(\0)", opened))
        opens = " ".join("anyname" if piece == "\0" else self._literal(piece) for piece in pieces if piece)
        return f"({opens} {value} gap)*"

    def one_marked(self, functions: Any, several: bool) -> str:
        """A block of calls that ends by itself; where each is a block of its own, one call."""
        name = self._format.tools or ""
        listed = name == "deepseek" or (name == "mistral" and not is_token(self._literal(mistral.ARGUMENTS)))
        return self.calls(functions, several=several and listed)

    def llama(self, functions: Any, several: bool) -> str:
        def written(at: int, function: Function) -> str:
            name = re.escape(f'"{function["name"]}"')
            space = "[ \\t\\n]{0,8}"
            head = rf'/\{{{space}"name"{space}:{space}{name}{space},{space}"parameters"{space}:/'
            return f'{head} gap {self._arguments(at, function)} gap "}}"'

        call = self._calls(written, functions)
        tag = f"({self._literal(llama.MARKER)} gap)?"
        more = f' (gap ";" gap {call})*' if several else ""
        return f"gap {tag} {call}{more}"

    def harmony(self, functions: Any, several: bool) -> str:
        channel, message, _, constrain, *_ = map(self._literal, harmony.MARKERS)

        def written(at: int, function: Function) -> str:
            return f"{lark_string('.' + function['name'])} kind {message} {self._arguments(at, function)}"

        self._rules.append(f'kind: gap ({channel} "commentary" gap)? ({constrain} gap "json" gap)?')
        return f"{self._until('to', _TO)} {self._calls(written, functions)}"


_WAYS = dict.fromkeys(_MARKERS, "one_marked") | {"llama3_json": "llama", "harmony": "harmony"}

assert _WAYS.keys() == set(ENFORCED)


def opening(
    job: WireJob,
    answer_format: AnswerFormat,
    added_token: Callable[[str], int | None],
    *,
    strict: bool = True,
) -> Opening:
    """How a job's calls begin, and their grammar.

    Args:
        job: which tools there are.
        answer_format: how the answer is read; its calls are in one of the formats in `ENFORCED`.
        added_token: the token that a marker is; None if it is spelt like other text.
        strict: whether arguments follow the schemas of strict functions; otherwise any object will do.
    """

    def literal(marker: str) -> str:
        token_id = added_token(marker)
        return lark_string(marker) if token_id is None else f"<[{token_id}]>"

    functions: list[Mapping[str, Any]] = [tool.get("function", tool) for tool in job.tools or ()]
    if not strict:
        functions = [{**each, "strict": False} for each in functions]
    several = not answer_format.single
    grammar = lark_grammar(_BegunCall(answer_format, literal).text(functions, several=several))
    name = answer_format.tools or ""
    if name == "harmony":
        return Opening(grammar, pattern=re.escape(_TO), in_head=True, last=True)
    if name == "llama3_json":
        names = "|".join(re.escape(function_name(tool)) for tool in job.tools or ())
        tag = re.escape(llama.MARKER)
        pattern = rf'\A\s*(?:{tag})?\s*\{{\s*"name"\s*:\s*"(?:{names})"'
        return Opening(grammar, pattern=pattern, longest=256, first=True, last=True)
    marker = _MARKERS[name]
    token_id = added_token(marker)
    pattern = "" if token_id is not None else re.escape(marker).encode().decode("latin-1")
    return Opening(grammar, token_id, pattern, last=not several)
