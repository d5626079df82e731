"""Grammars of calls, in each model's own format: what an answer follows that has to call a tool.

Such an answer is reasoning, where the model marks it, and then calls in the spelling of the model's template.
Their arguments follow the functions' schemas; keywords that can't be enforced are left unheeded unless the
function is strict.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ....schemas.answers import AnswerFormat, deepseek, glm, harmony, hermes, mistral, qwen
from ....schemas.answers.reasoning import PAIRS
from ....schemas.wire import WireJob
from .grammar import either, lark_json, lark_string

_TEXT = r"/(?s:.*)/"

Function = Mapping[str, Any]


def must_call(job: WireJob) -> bool:
    """Whether the job's answer has to be a call."""
    return bool(job.tools) and job.tool_choice not in (None, "none", "auto")


def may_call(job: WireJob) -> bool:
    """Whether the job's answer may be a call."""
    return bool(job.tools) and job.tool_choice != "none"


class CallGrammar:
    """The rules of one grammar, in llguidance's variant of Lark, for an answer that has to be a call.

    Args:
        answer_format: how the answer is read.
        literal: how Lark writes a marker: as a token of its own, `<[7]>`, or as a string.
    """

    def __init__(self, answer_format: AnswerFormat, literal: Callable[[str], str]) -> None:
        self._format, self._literal, self._opening, self._gap = answer_format, literal, literal, '"\\n"'
        self._rules: list[str] = []

    def text(self, functions: Sequence[Function], *, several: bool) -> str:
        start = f"start: {self._thought()}{self.calls(functions, several=several)}"
        return "\n".join([start, *self._rules]) + "\n"

    def before(self, *grammars: str) -> str:
        """Reasoning, where the model marks it, and then a text that follows one of these grammars."""
        lead = self._thought()
        return either(*grammars, lead=lead, rules=self._rules) if lead or grammars[1:] else grammars[0]

    def calls(self, functions: Sequence[Function], *, several: bool) -> str:
        """The calls of any of these functions, in the model's format; the rules that they need are added."""
        written: str = getattr(self, _FORMATS[self._format.tools or ""])(functions, several)
        return written

    def _thought(self) -> str:
        pair = PAIRS.get(self._format.reasoning or "")
        if pair is None:
            return ""
        self._rules.append(r"space: /[ \n]{0,4}/")
        thought = self._until("thought", pair[1]) + " space "
        return thought if self._format.begun else f"({self._literal(pair[0])} {thought})? "

    def _until(self, rule: str, marker: str, before: str = "") -> str:
        """What matches text up to a marker, and the marker; `before` belongs to the marker."""
        written = self._literal(marker)
        if is_token(written):
            self._rules.append(f"{rule}: {_TEXT}")
            return f"{rule} {written}"
        end = "".join(f"\\x{ord(c):02x}" if ord(c) < 128 else c for c in before + marker)
        self._rules.append(f"{rule}[lazy]: /(?s:.*){end}/")
        return rule

    def _arguments(self, at: int, function: Function) -> str:
        schema = function.get("parameters") or {"type": "object"}
        self._rules.append(f"args{at}: {_json(schema, function)}")
        return f"args{at}"

    def _calls(self, written: Callable[[int, Function], str], functions: Sequence[Function]) -> str:
        """One call of any of the functions."""
        self._rules.append("call: " + " | ".join(written(at, each) for at, each in enumerate(functions)))
        return "call"

    def _objects(self, key: str, functions: Sequence[Function]) -> str:
        def written(at: int, function: Function) -> str:
            head = f'{{"name": {json.dumps(function["name"])}, "{key}": '
            return f'{lark_string(head)} {self._arguments(at, function)} "}}"'

        return self._calls(written, functions)

    def hermes(self, functions: Sequence[Function], several: bool) -> str:
        opens, closes = self._opening(hermes.OPENS), self._literal(hermes.CLOSES)
        one = f"{opens} {self._gap} {self._objects('arguments', functions)} {self._gap} {closes}"
        return _repeated(one, '"\\n"', several)

    def llama(self, functions: Sequence[Function], several: bool) -> str:
        return _repeated(self._objects("parameters", functions), '"; "', several)

    def mistral(self, functions: Sequence[Function], several: bool) -> str:
        opens, arguments = self._opening(mistral.OPENS), self._literal(mistral.ARGUMENTS)
        if not is_token(arguments):  # an earlier version, which writes a list
            calls = _repeated(self._objects("arguments", functions), '", "', several)
            return f'{opens} " "? "[" {calls} "]"'

        def written(at: int, function: Function) -> str:
            return f"{lark_string(function['name'])} {arguments} {self._arguments(at, function)}"

        return _repeated(f"{opens} {self._calls(written, functions)}", "", several)

    def deepseek(self, functions: Sequence[Function], several: bool) -> str:
        all_open = self._opening(deepseek.ALL_OPEN)
        all_close, opens, separates, closes = map(self._literal, deepseek.MARKERS[1:])

        def written(at: int, function: Function) -> str:
            name, arguments = lark_string(function["name"]), self._arguments(at, function)
            fenced = f'"function" {separates} {name} "\\n```json\\n" {arguments} "\\n```"'
            return f"{opens} ({name} {separates} {arguments} | {fenced}) {closes}"

        calls = _repeated(self._calls(written, functions), r"/[ \n]?/", several)
        return f"{all_open} {calls} {all_close}"

    def harmony(self, functions: Sequence[Function], several: bool) -> str:
        channel, message, start, constrain, end, *_ = map(self._literal, harmony.MARKERS)
        self._rules.append(f"analysis: {_TEXT}")

        def written(at: int, function: Function) -> str:
            to = lark_string(f"commentary to=functions.{function['name']} ")
            return f'{channel} {to} {constrain} "json" {message} {self._arguments(at, function)}'

        thought = f'{channel} "analysis" {message} analysis {end} {start} "assistant"'
        return f"({thought})? {self._calls(written, functions)}"

    def qwen(self, functions: Sequence[Function], several: bool) -> str:
        opens, closes = self._opening(hermes.OPENS), self._literal(hermes.CLOSES)

        def written(at: int, function: Function) -> str:
            head, end = f"\n{qwen.FUNCTION}{function['name']}>\n", f"{qwen.FUNCTION_ENDS}\n"
            parameters = self._parameters(
                at, function, lambda name: f"{qwen.PARAMETER}{name}>\n", qwen.PARAMETER_ENDS, "\n", "\n"
            )
            return f"{lark_string(head)} {parameters} {lark_string(end)}"

        return _repeated(f"{opens} {self._calls(written, functions)} {closes}", '"\\n"', several)

    def glm(self, functions: Sequence[Function], several: bool) -> str:
        opens, closes = self._opening(hermes.OPENS), self._literal(hermes.CLOSES)

        def written(at: int, function: Function) -> str:
            parameters = self._parameters(
                at,
                function,
                lambda name: (glm.KEY, f"{name}", glm.KEY_ENDS, "\n", glm.VALUE),
                glm.VALUE_ENDS,
                "",
                "\n",
            )
            return f"{lark_string(function['name'] + chr(10))} {parameters}"

        return _repeated(f"{opens} {self._calls(written, functions)} {closes}", '"\\n"', several)

    def _parameters(
        self,
        at: int,
        function: Function,
        head: Callable[[str], str | tuple[str, ...]],
        ends: str,
        before: str,
        after: str,
    ) -> str:
        """The parameters in the schema's order; a value that isn't a string is JSON."""
        schema = function.get("parameters") or {}
        required = schema.get("required") or ()
        parts = []
        for place, (name, each) in enumerate((schema.get("properties") or {}).items()):
            opened = head(name)
            opens = " ".join(
                self._literal(piece) for piece in (opened if isinstance(opened, tuple) else (opened,))
            )
            rule = f"value{at}_{place}"
            if (
                isinstance(each, Mapping)
                and each.get("type") not in (None, "string")
                and "$ref" not in str(each)
            ):
                self._rules.append(f"{rule}: {_json(each, function)}")
                value = f"{rule} {lark_string(before) if before else ''} {self._literal(ends)}"
            else:
                value = self._until(rule, ends, before)
            one = f"{opens} {value} {lark_string(after)}"
            parts.append(one if name in required else f"({one})?")
        return " ".join(parts) or '""'


_FORMATS = {
    "hermes": "hermes",
    "llama3_json": "llama",
    "mistral": "mistral",
    "deepseek": "deepseek",
    "harmony": "harmony",
    "qwen3_coder": "qwen",
    "glm": "glm",
}
"""The method that writes each format."""

ENFORCED = tuple(_FORMATS)
"""Formats of which there is a grammar."""


def call_grammar(job: WireJob, answer_format: AnswerFormat, literal: Callable[[str], str]) -> str:
    """The grammar of the answer to a job that has to call a tool.

    Args:
        job: which tools there are, and which must be called.
        answer_format: how the answer is read; its calls are in one of the formats in `ENFORCED`.
        literal: how Lark writes a marker: as a token of its own, `<[7]>`, or as a string.
    """
    functions: list[Function] = [tool.get("function", tool) for tool in job.tools or ()]
    named = job.tool_choice if isinstance(job.tool_choice, Mapping) else None
    if named is not None:
        functions = [each for each in functions if each["name"] == named["function"]["name"]]
    several = named is None and job.parallel_tool_calls
    return CallGrammar(answer_format, literal).text(functions, several=several)


def is_token(written: str) -> bool:
    """Whether Lark writes this marker as a token."""
    return written.startswith("<[")


def _repeated(one: str, between: str, several: bool) -> str:
    return f"{one} ({between} {one})*" if several else one


def _json(schema: Mapping[str, Any], function: Function) -> str:
    return lark_json(dict(schema), lenient=function.get("strict") is not True)


def form_grammar(
    form: str, job: WireJob, answer_format: AnswerFormat, literal: Callable[[str], str], *, calls: bool
) -> str:
    """The grammar of the answer to a job that asks for a form: its reasoning, and then the form or calls.

    Args:
        form: the grammar of the form.
        job: which tools there are.
        answer_format: how the answer is read.
        literal: how Lark writes a marker.
        calls: whether the answer may be calls instead, which are in one of the formats in `ENFORCED`.
    """
    forms = [form]
    if calls:
        forms.append(call_grammar(job, answer_format.model_copy(update={"reasoning": None}), literal))
    return CallGrammar(answer_format, literal).before(*forms)
