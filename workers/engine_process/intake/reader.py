"""Reads a job: what it asks for, its prompt as token ids, its log as text. A bad job fails alone."""

import json
import traceback
from collections.abc import Callable, Mapping
from time import thread_time
from typing import Any, Literal

from ....schemas.answers import AnswerFormat
from ....schemas.errors import InvalidJob
from ....schemas.events import FailureCode
from ....schemas.settings.queue import Limits
from ....schemas.wire import TokenizerTask, WireJob
from ..host_notices import introduction
from ..prepared import NOT_KEPT, Asked, Prepared, Told
from ..text import (
    ChatTemplateError,
    GrammarError,
    Grammars,
    Held,
    Tokenizer,
    grammar_of,
    held_after,
)
from ..text.answer_format import AUTO, answer_format, reasoning_format, tool_format
from ..text.begun_calls import opening
from ..text.call_grammar import ENFORCED, call_grammar, form_grammar, may_call, must_call
from ..text.grammar import json_grammar, lark_grammar, lark_string, unquoted
from ..text.guide import Guidance, Opening, closing_tokens
from .bounds import bytes_a_token
from .refusal import JobRefused, refusal
from .replaying import replay, travelling

COMPILE_S = 1.0
"""CPU time that compiling a grammar may take. Most take 0.01 s; those that take seconds, a `multipleOf` of a
million, say, also take hundreds of megabytes."""


class Reader:
    """Reads jobs for one model.

    Args:
        tokenizer: the model's tokenizer.
        show: how much of a job the host may show.
        memory: says how much memory a job may take, for the error.
        limits: how many log-probabilities a job may ask for.
        tool_call_parser: the format of the model's calls; `auto` if its chat template tells.
        reasoning_parser: the same for its reasoning.
        score_template: the template of a query and a document; None if it simply follows.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        show: Literal["size", "start", "all"] = "size",
        memory: str = "this machine has",
        limits: Limits = Limits(),  # noqa: B008
        tool_call_parser: str = AUTO,
        reasoning_parser: str = AUTO,
        score_template: str | None = None,
    ) -> None:
        self._score_template = score_template
        self._tool_format = tool_format(tokenizer.template, tool_call_parser)
        self._reasoning_format = reasoning_format(tokenizer.template, reasoning_parser)
        self._tokenizer, self._show, self._memory, self._limits = tokenizer, show, memory, limits
        self._grammars: Grammars | None = None
        try:
            self._bytes_a_token = bytes_a_token(tokenizer.to_json())
        except Exception:  # parts of it are written in Python: nothing is known of what they do
            self._bytes_a_token = None

    def load_grammars(self) -> None:
        """Make ready to compile grammars, which takes a moment with a large vocabulary."""
        self._grammars = self._grammars or Grammars(self._tokenizer)

    def read(self, asked: Asked, at: Callable[[str], None] = lambda _: None) -> Prepared:
        """Make the job ready to run, resumed where its log ends, or say why it can't run.

        Args:
            asked: the job.
            at: called with the next stage: `template`, `tokens`, `grammar` or `log`.
        """
        prepared = Prepared()
        try:
            self._read(prepared, asked, at)
        except JobRefused as refused:
            prepared.error = refused.error
        except MemoryError:
            reason = f"reading the job takes more memory than {self._memory}"
            prepared.error = refusal(FailureCode.INVALID, reason)
        except Exception as error:
            reason = f"the job can't be read: {type(error).__name__}: {error}"
            prepared.error, prepared.trace = refusal(FailureCode.INVALID, reason), traceback.format_exc()
        return prepared

    def _read(self, prepared: Prepared, asked: Asked, at: Callable[[str], None]) -> None:
        try:
            job = WireJob.from_wire(asked.spec)
        except InvalidJob as error:
            raise JobRefused(FailureCode.INVALID, f"the job's record can't be read: {error}") from None
        prepared.fields = job.model_dump(mode="json", exclude_defaults=True, exclude=set(NOT_KEPT))
        prepared.prompt_bytes = job.prompt_bytes
        prepared.notice = introduction(asked.job_id, job, self._show)
        self._read_prompt(prepared, job, asked.context_tokens, at)
        if job.tokenizer is not None:
            prepared.told, prepared.answer_format = self._told(job.tokenizer, prepared.prompt_ids), None
            return
        prepared.bad_words = [word for text in job.bad_words for word in self._tokens_of_word(text)]
        self._read_grammar(prepared, job, at)
        self._read_guidance(prepared, job, at)
        at("log")
        replay(self._tokenizer, prepared, job, asked)

    def _read_prompt(
        self, prepared: Prepared, job: WireJob, context_tokens: int, at: Callable[[str], None]
    ) -> None:
        wanted = job.tokenizer or TokenizerTask(kind="tokenize")
        if job.prompt_token_ids is not None:
            prepared.prompt_field = "prompt_token_ids"
            prompt_ids = list(job.prompt_token_ids)
        elif job.prompt is not None and job.document is not None:
            prepared.scores = True
            self._refuse_by_bytes(job.prompt + job.document, job, context_tokens)
            at("tokens" if self._score_template is None else "template")
            try:
                prompt_ids = self._tokens_of_pair(job, job.prompt, job.document)
            except ChatTemplateError as error:
                raise JobRefused(FailureCode.TEMPLATE, str(error)) from None
        elif job.prompt is not None:
            self._refuse_by_bytes(job.prompt, job, context_tokens)
            at("tokens")
            prompt_ids = self._tokenizer.encode(job.prompt, special=wanted.add_special_tokens is not False)
        else:
            assert job.messages is not None
            prepared.prompt_field = "messages"
            messages = [message.model_dump(exclude_none=True) for message in job.messages]
            tools, variables = self._tools_of(job), self._variables(job)
            at("template")
            try:
                text = self._tokenizer.render(
                    messages, tools, begun=wanted.add_generation_prompt, variables=variables
                )
                self._refuse_by_bytes(text, job, context_tokens)
                at("tokens")
                prompt_ids = self._tokenizer.encode_chat(
                    text,
                    messages,
                    tools,
                    begun=wanted.add_generation_prompt,
                    special=bool(wanted.add_special_tokens),
                    variables=variables,
                )
            except ChatTemplateError as error:
                raise JobRefused(FailureCode.TEMPLATE, str(error)) from None
            prepared.answer_format = travelling(
                answer_format(job, text, self._tool_format, self._reasoning_format)
            )
        if not prompt_ids:
            raise JobRefused(FailureCode.INVALID, "the prompt has no tokens")
        if (most := job.truncate_prompt_tokens) is not None:
            prompt_ids = prompt_ids[-most:] if job.truncation_side == "left" else prompt_ids[:most]
        if job.continuation is not None:
            continuation = self._tokens_of_continuation(job.continuation)
            prepared.continuation_tokens = len(continuation)
            prompt_ids += continuation
        prepared.prompt_tokens = len(prompt_ids)
        if wanted.kind == "count":
            return
        if len(prompt_ids) >= context_tokens:
            raise JobRefused(
                FailureCode.CONTEXT_LENGTH, _too_long(f"{len(prompt_ids)} tokens", job, context_tokens)
            )
        try:
            self._limits.check(job, prepared.continuation_tokens or len(prompt_ids))
        except InvalidJob as error:
            raise JobRefused(FailureCode.INVALID, str(error)) from None
        prepared.prompt_ids = prompt_ids

    def _read_grammar(self, prepared: Prepared, job: WireJob, at: Callable[[str], None]) -> None:
        """Compile the grammar that the answer must follow, so that one that can't be is refused here."""
        field = "response_format" if job.response_format is not None else "structured_outputs"
        form = grammar = grammar_of(job)
        calls = must_call(job)
        if calls:
            field, grammar = "tool_choice", lark_grammar(self._call_grammar(prepared, job))
        elif form is not None and prepared.answer_format is not None:
            calls = may_call(job) and self._tool_format in ENFORCED
            answer = AnswerFormat.model_validate(prepared.answer_format)
            grammar = form_grammar(form, job, answer, self._literal, calls=calls)
        if grammar is None:
            return
        if (reason := self._fault(grammar, at)) is not None:
            of_form = None if form is None else self._fault(form, at)
            if calls and of_form is None:
                self._refuse_schemas(job, at)
                reason = f"{unquoted(reason)}; offer fewer or simpler tools, or leave {field} out"
            raise JobRefused(FailureCode.INVALID, f"{field}: {of_form or reason}")
        prepared.grammar = grammar

    def _fault(self, grammar: str, at: Callable[[str], None]) -> str | None:
        """Why a grammar can't be compiled; None if it can, within the limits."""
        at("grammar")
        self.load_grammars()
        assert self._grammars is not None
        began = thread_time()
        try:
            self._grammars.follow(grammar)
        except GrammarError as error:
            return str(error)
        if (took_s := thread_time() - began) > COMPILE_S:
            # The engine process compiles it again, beside all answers.
            return f"compiling it takes {took_s:.1f} s; at most {COMPILE_S:g} s are allowed"
        return None

    def _refuse_schemas(self, job: WireJob, at: Callable[[str], None]) -> None:
        """Name the first function whose schema alone can't be enforced, if there is one."""
        named = job.tool_choice["function"]["name"] if isinstance(job.tool_choice, Mapping) else None
        for place, tool in enumerate(job.tools or ()):
            function = tool.get("function", tool)
            if named not in (None, function["name"]):
                continue
            strict = function.get("strict") is True
            schema = function.get("parameters") or {"type": "object"}
            if (reason := self._fault(json_grammar(dict(schema), lenient=not strict), at)) is not None:
                way_out = "the schema, or leave its strict out" if strict else "the schema"
                raise JobRefused(
                    FailureCode.INVALID,
                    f"tools.{place}.function.parameters: that of {function['name']} can't be enforced: "
                    f"{reason}; change {way_out}",
                )

    def _read_guidance(self, prepared: Prepared, job: WireJob, at: Callable[[str], None]) -> None:
        """Say what guides the answer: a budget for its reasoning, the grammar of calls that it may hold."""
        travelling, most = prepared.answer_format, job.max_reasoning_tokens
        if most is not None and (travelling is None or travelling.get("reasoning") is None):
            raise JobRefused(
                FailureCode.INVALID,
                f"max_reasoning_tokens: {job.model} marks no reasoning; leave it out (got {most})",
            )
        if travelling is None:
            return
        answer, begun = AnswerFormat.model_validate(travelling), None
        free = prepared.grammar is None and job.takes_a_grammar
        if answer.tools in ENFORCED and free:
            begun = self._begun_calls(job, answer, at)
        if begun is not None or most is not None:
            closing, again = closing_tokens(answer, self._tokenizer)
            prepared.guidance = Guidance(travelling, most, closing, again, begun).to_wire()

    def _begun_calls(self, job: WireJob, answer: AnswerFormat, at: Callable[[str], None]) -> Opening | None:
        """How calls that nobody required begin, as far as they can be guided: they fail no job."""
        for strict in (True, False):
            begun = opening(job, answer, self._tokenizer.added_token, strict=strict)
            if self._fault(begun.grammar, at) is None:
                return begun
        return None

    def _call_grammar(self, prepared: Prepared, job: WireJob) -> str:
        if self._tool_format not in ENFORCED:
            shown = f"in the format {self._tool_format}" if self._tool_format else f"of {job.model}"
            raise JobRefused(
                FailureCode.INVALID,
                f"tool_choice: calls {shown} can't be enforced; send auto, or leave it out",
            )
        return call_grammar(job, AnswerFormat.model_validate(prepared.answer_format), self._literal)

    def _literal(self, marker: str) -> str:
        """How a Lark grammar writes a marker: as the token of its own that it is, or as a string."""
        token_id = self._tokenizer.added_token(marker)
        return lark_string(marker) if token_id is None else f"<[{token_id}]>"

    def _told(self, wanted: TokenizerTask, token_ids: list[int]) -> Told:
        if wanted.kind == "count":
            return Told()
        names = [self._tokenizer.name_of(token_id) for token_id in token_ids]
        if wanted.kind == "tokenize":
            strs = [name or "" for name in names] if wanted.token_strs else None
            return Told(token_ids=token_ids, token_strs=strs)
        if None in names:
            unknown = token_ids[names.index(None)]
            reason = f"prompt_token_ids: {unknown} is not in the model's vocabulary"
            raise JobRefused(FailureCode.INVALID, reason)
        return Told(self._tokenizer.spelt_out(token_ids))

    def _tokens_of_pair(self, job: WireJob, query: str, document: str) -> list[int]:
        """The tokens of a query and a document; if they must be fewer, the document loses some.

        Without its query or the end of its template, a prompt has a score that says nothing.
        """
        token_ids = self._tokenizer.encode_pair(query, document, self._score_template)
        most = job.truncate_prompt_tokens
        if most is None or len(token_ids) <= most:
            return token_ids
        own = self._tokenizer.encode(document, special=False)
        kept, least = len(own), 0
        # Once, usually. Where tokens join over the cut there may be more than those counted: then an eighth
        # goes as well, so that it comes to an end soon.
        while len(token_ids) > most:
            kept -= max(len(token_ids) - most, least)
            least = kept // 8
            if kept <= 0:
                raise JobRefused(
                    FailureCode.INVALID,
                    f"truncate_prompt_tokens: {most} leaves nothing of the document, because the query and "
                    "the template take as many; raise it",
                )
            left = own[-kept:] if job.truncation_side == "left" else own[:kept]
            cut = self._tokenizer.decode(left).strip("\N{REPLACEMENT CHARACTER}")
            token_ids = self._tokenizer.encode_pair(query, cut, self._score_template)
        return token_ids

    def _tokens_of_continuation(self, given: str | tuple[int, ...]) -> list[int]:
        """Its tokens, which don't depend on the prompt: so all continuations of a prompt share its pages."""
        if not isinstance(given, str):
            return list(given)
        token_ids = self._tokenizer.encode(given, special=False)
        if not token_ids:
            raise JobRefused(FailureCode.INVALID, f"continuation: {given!r:.100} has no tokens")
        return token_ids

    def _tokens_of_word(self, text: str) -> list[list[int]]:
        """A word's tokens at the beginning of a text and, where a space makes other ones, within it."""
        alone = self._tokenizer.encode(text, special=False)
        within = self._tokenizer.encode(f" {text.lstrip()}", special=False)
        if not alone:
            raise JobRefused(FailureCode.INVALID, f"bad_words: {text!r:.100} has no tokens")
        # As vLLM does: a space that is a token of its own leaves the word's tokens as they are.
        other = len(within) == len(alone) and within[0] != alone[0]
        return [alone, within] if other else [alone]

    def _tools_of(self, job: WireJob) -> list[dict[str, Any]] | None:
        """The job's tools, if any, which the template must support."""
        tools = [] if job.tool_choice == "none" else list(job.tools or ())
        if tools and not self._tokenizer.takes_tools:
            raise JobRefused(
                FailureCode.INVALID,
                f"tools: the chat template of {job.model} does nothing with tools; leave them out, or "
                "describe them in a message",
            )
        return tools or None

    def _variables(self, job: WireJob) -> dict[str, Any]:
        """What the job asks of the template besides messages and tools."""
        return self._effort(job) | self._template_kwargs(job)

    def _template_kwargs(self, job: WireJob) -> dict[str, Any]:
        """What the job gives the template by name."""
        asked = dict(job.chat_template_kwargs or {})
        for name in asked:
            if not self._tokenizer.knows(name) or name in self._tokenizer.template_arguments:
                raise JobRefused(
                    FailureCode.INVALID,
                    f"chat_template_kwargs.{name}: the chat template of {job.model} knows no such variable; "
                    "leave it out",
                )
        if named := self._tokenizer.specials_in(json.dumps(asked, ensure_ascii=False)):
            raise JobRefused(
                FailureCode.INVALID,
                f"chat_template_kwargs: holds the control token {next(iter(named))}; leave it out",
            )
        return asked

    def _effort(self, job: WireJob) -> dict[str, Any]:
        effort = job.reasoning_effort
        if effort is None:
            return {}
        if self._tokenizer.knows("reasoning_effort"):
            return {"reasoning_effort": effort}
        if self._tokenizer.knows("enable_thinking"):
            return {"enable_thinking": effort != "none"}
        if self._tokenizer.knows("thinking"):
            return {"thinking": effort != "none"}
        if effort == "medium" or (effort == "none" and self._reasoning_format is None):
            return {}
        raise JobRefused(
            FailureCode.INVALID,
            f"reasoning_effort: the chat template of {job.model} knows no effort; leave it out",
        )

    def _refuse_by_bytes(self, text: str, job: WireJob, context_tokens: int) -> None:
        """Refuse a text with more bytes than the allowed tokens can stand for, before tokenising it."""
        most = self._bytes_a_token
        if most is None or job.truncate_prompt_tokens is not None or len(text) * 4 <= most * context_tokens:
            return
        if job.tokenizer is not None and job.tokenizer.kind == "count":
            return
        size = len(text.encode(errors="replace"))
        if size > most * context_tokens:
            sizes = f"{size} bytes, at least {-(-size // most)} tokens"
            raise JobRefused(FailureCode.CONTEXT_LENGTH, _too_long(sizes, job, context_tokens))

    def _after(self, prompt_ids: list[int], job: WireJob) -> Held:
        return held_after(self._tokenizer, prompt_ids, whole=job.prompt_token_ids is None)


def _too_long(prompt: str, job: WireJob, context_tokens: int) -> str:
    return f"the prompt has {prompt}; {job.model} takes at most {context_tokens}, prompt and output together"
