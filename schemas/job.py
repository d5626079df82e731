"""A generation job as a producer asks for it. What travels through Redis is a `wire.WireJob`."""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeGuard

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from .choices import MAX_CHOICES
from .embed import OptionalEmbed
from .errors import InvalidJob
from .keys import is_model_name
from .plain_json import check_json
from .redaction import shown_in_error, shown_name
from .response_format import OptionalResponseFormat, OptionalStructuredOutputs
from .template_kwargs import TemplateKwargs
from .tools import MAX_TOOLS, Tool, ToolChoice, function_name
from .unanswered import refuse_output, with_no_output
from .webhooks.signing import check_secret
from .webhooks.target import Refused, check_url
from .wording import did_you_mean, in_words

SCHEMA_VERSION = 1
"""Raised when an older worker could misread a job, which is then left for a newer one."""

# What a signed 64-bit integer holds, as the sampling kernels take it.
MAX_SEED = 2**63 - 1

MAX_MESSAGES = 10_000

MAX_LOGIT_BIASES = 1024

MAX_ALLOWED_TOKENS = 8192

MAX_BAD_WORDS = 128

MAX_LOGPROBS = 1024
"""More than the setting `max_logprobs` can allow."""

_IDEMPOTENCY_KEY = r"[\x21-\x7e]{1,255}"

_ALL_TOKENS = 2**31 - 1
"""More than any vocabulary has. A `top_k` this large or larger keeps every token, and travels as this."""


class JobClass(StrEnum):
    """How urgent a job is. Workers read the classes in this order."""

    INTERACTIVE = "interactive"
    STANDARD = "standard"
    BATCH = "batch"


class WebhookEvent(StrEnum):
    """Events that can be sent to a webhook."""

    STARTED = "job.started"
    SUCCEEDED = "job.succeeded"
    FAILED = "job.failed"
    CANCELLED = "job.cancelled"
    EXPIRED = "job.expired"


_ENDINGS = (WebhookEvent.SUCCEEDED, WebhookEvent.FAILED, WebhookEvent.CANCELLED, WebhookEvent.EXPIRED)


class _RaisesInvalidJob(type(BaseModel)):  # type: ignore[misc]
    """Makes the constructor raise headrace's own errors; a nested dict is validated without calling it."""

    def __call__(cls, *args: object, **fields: object) -> object:
        try:
            return super().__call__(*args, **fields)
        except ValidationError as error:
            raise invalid(error, within=cls._PART_OF) from None


if TYPE_CHECKING:
    _JobModel = BaseModel
else:

    class _JobModel(BaseModel, metaclass=_RaisesInvalidJob):
        pass


class _Wire(_JobModel):
    # hide_input_in_errors: pydantic would quote prompts and secrets, and errors are logged.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)
    _PART_OF: ClassVar[tuple[str, ...]] = ()


class Webhook(_Wire):
    """A receiver for a job's events.

    Attributes:
        url: an http(s) address.
        events: the events to send; by default the four endings.
        secret: signs the body (Standard Webhooks) instead of the tenant's; never shown in logs or reprs.
        payload: `full` holds the whole result; `thin` leaves out text and tokens; `openai` is an event of
            OpenAI's API, about the response that the job is for.
    """

    _PART_OF: ClassVar[tuple[str, ...]] = ("webhook",)

    url: Annotated[str, Field(max_length=2048)]
    events: tuple[WebhookEvent, ...] = _ENDINGS
    secret: SecretStr | None = None
    payload: Literal["full", "thin", "openai"] = "full"

    @field_validator("url")
    @classmethod
    def _can_be_sent_to(cls, url: str) -> str:
        try:
            check_url(url)
        except Refused as refusal:
            raise ValueError(str(refusal)) from None
        return url

    @field_validator("secret")
    @classmethod
    def _can_sign(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None:
            check_secret(secret.get_secret_value())
        return secret

    @field_validator("payload")
    @classmethod
    def _has_events(cls, payload: str, info: ValidationInfo) -> str:
        if payload == "openai" and WebhookEvent.STARTED in info.data.get("events", ()):
            raise ValueError("'openai' has no event for job.started; leave that out of events")
        return payload

    # Only as JSON, which goes to Redis; reprs and dumps for people still mask it.
    @field_serializer("secret", when_used="json")
    def _reveal(self, secret: SecretStr | None) -> str | None:
        return None if secret is None else secret.get_secret_value()


ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython", "observation")
"""OpenAI's roles, and the names that Llama's and GLM's templates have for a tool."""

_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Kinds of content parts that are text, and the key that holds it."""


def _flat(content: object) -> object:
    """Join a list of text parts with line breaks, as vLLM does."""
    if not isinstance(content, list | tuple):
        return content
    if not content:
        raise ValueError("has no parts; give a string")
    texts = []
    for place, part in enumerate(content):
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = part.get("type", "text") if isinstance(part, Mapping) else None
        if not isinstance(kind, str):
            raise ValueError(f"part {place} must be a string or a dict with a type")  # noqa: TRY004
        if kind not in _TEXTS:
            raise ValueError(f"part {place} is of type {shown_name(kind)!r}: models here read only text")
        text = part.get(_TEXTS[kind])
        if not isinstance(text, str):
            raise ValueError(f"part {place} must have a string under {_TEXTS[kind]!r}")  # noqa: TRY004
        texts.append(text)
    return "\n".join(texts)


class Message(_Wire):
    """One chat message. Other keys of OpenAI's format are passed on to the chat template unchanged.

    Attributes:
        role: one of `ROLES`.
        content: text; a list of text parts is joined. An assistant's may be null beside `tool_calls`.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    _PART_OF: ClassVar[tuple[str, ...]] = ("messages",)

    role: str
    content: Annotated[str | None, BeforeValidator(_flat), AfterValidator(check_json)] = None

    @field_validator("role")
    @classmethod
    def _known(cls, role: str) -> str:
        if role not in ROLES:
            raise ValueError(f"must be one of {', '.join(ROLES)}")
        return role

    @model_validator(mode="after")
    def _survives(self) -> Self:
        check_json(self.model_extra)
        if self.content is None and not (
            self.role == "assistant" and _says_otherwise(self.model_extra or {})
        ):
            raise ValueError("content is missing; only an assistant's may be, beside tool_calls")
        return self


def _says_otherwise(extra: Mapping[str, Any] | None) -> bool:
    return any(
        (extra or {}).get(name) for name in ("tool_calls", "function_call", "reasoning_content", "refusal")
    )


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004
    return value


TenantName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@-]{1,64}$")]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class Job(_Wire):
    """One generation job. Sampling parameters have the names and meanings of the OpenAI API and vLLM.

    Exactly one of `prompt`, `messages` and `prompt_token_ids` is given.

    Attributes:
        model: the served name of the model.
        messages: at most 10,000.
        tools: at most 512 functions that the model may call, as OpenAI describes them.
        tool_choice: `auto` leaves it to the model whether to call tools, and with `none` it sees none. With
            `required`, or a function, the answer is a call, in the format that the model writes.
        parallel_tool_calls: if false, only the first call counts as one.
        reasoning_effort: how much to think before the answer, for chat templates that know an effort or a
            switch; `none` switches it off.
        max_reasoning_tokens: after this many tokens, reasoning is ended by the model's own marker, and the
            answer follows.
        chat_template_kwargs: more variables for the chat template, such as `enable_thinking`; JSON of at most
            16 KiB.
        truncate_prompt_tokens: keep at most this many of the prompt's tokens; a longer one isn't refused.
        truncation_side: where a longer prompt loses its tokens.
        prompt_logprobs: log-probabilities of the prompt's tokens, and of this many of the most likely ones at
            their places; they are part of the result. As `logprobs`, at most `max_logprobs`.
        max_tokens: maximum number of tokens to generate; a full context ends generation too. 0 only with
            `prompt_logprobs`.
        min_tokens: before this many tokens, no end of text, stop token or stop string ends the job.
        temperature: 0 is greedy, as is anything below 0.00001.
        top_p: the most likely token is always kept, however small this is.
        top_k: 0 keeps every token, as does anything not below the size of the vocabulary.
        logit_bias: at most 1,024 entries.
        allowed_token_ids: at most 8,192; if empty, all tokens are allowed.
        bad_words: texts that aren't generated, at most 128 of at most 128 characters: the last token of one
            is ruled out where the answer ends with those before. Other tokens may spell the same text.
        seed: sampling noise depends on (seed, position) alone. Without a seed it is derived from the job's
            id, so a resumed job continues with the same tokens.
        logprobs: log-probabilities of the sampled token and of this many of the most likely ones.
        response_format: JSON, or JSON of a schema; None for text. As in OpenAI's API.
        structured_outputs: a schema, regex, choice or grammar that the answer follows. As in vLLM's.
        n: how many answers to generate, at most `max_choices`; `max_tokens` is for each. Their seeds follow
            from the job's (`choices.seed_of_choice`).
        embed: generate nothing; the result is the prompt's vector.
        continuation: generate nothing; say how likely this is after the prompt. Its tokens' log-probabilities
            are the result's `prompt_logprobs`. A text, or token ids after `prompt_token_ids`.
        document: generate nothing; say how well this text answers `prompt`, a query. For models that are made
            for it.
        job_class: `interactive`, `standard` or `batch`.
        tenant: the tenant that owns the job; tenants share the workers fairly.
        delay_s: don't start for this many seconds.
        deadline_s: expire if the job has not ended within this many seconds.
        max_runtime_s: expire if the job has not ended this many seconds after it first started.
        max_attempts: how often a worker may die while running this job alone before it becomes a dead letter.
        stream: false lets the worker checkpoint less often.
        metadata: returned with the job's status and webhooks, and otherwise ignored.
    """

    model: str
    prompt: Annotated[str, Field(min_length=1)] | None = None
    messages: Annotated[tuple[Message, ...], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    prompt_token_ids: Annotated[tuple[TokenId, ...], Field(min_length=1)] | None = None
    tools: Annotated[tuple[Tool, ...], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool = True
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    max_reasoning_tokens: Annotated[int, Field(ge=0, le=2**24), BeforeValidator(_no_bool)] | None = None
    chat_template_kwargs: TemplateKwargs | None = None

    truncate_prompt_tokens: Annotated[int, Field(ge=1, le=2**24)] | None = None
    truncation_side: Literal["left", "right"] = "left"
    # Before max_tokens, whose check reads it.
    prompt_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS), BeforeValidator(_no_bool)] | None = None
    max_tokens: Annotated[int, Field(ge=0, le=2**24)] = 256
    min_tokens: Annotated[int, Field(ge=0)] = 0
    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0), AfterValidator(lambda k: min(k, _ALL_TOKENS))] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    logit_bias: Annotated[
        dict[TokenId, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=MAX_LOGIT_BIASES)
    ] = Field(default_factory=dict)
    allowed_token_ids: Annotated[tuple[TokenId, ...], Field(max_length=MAX_ALLOWED_TOKENS)] = ()
    bad_words: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=128)], ...], Field(max_length=MAX_BAD_WORDS)
    ] = ()
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    stop: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=256)], ...],
        BeforeValidator(_one_or_many),
        Field(max_length=16),
    ] = ()
    stop_token_ids: Annotated[tuple[TokenId, ...], Field(max_length=64)] = ()
    ignore_eos: bool = False
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS), BeforeValidator(_no_bool)] | None = None
    response_format: OptionalResponseFormat = None
    structured_outputs: OptionalStructuredOutputs = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    embed: OptionalEmbed = None
    continuation: (
        Annotated[str, Field(min_length=1)] | Annotated[tuple[TokenId, ...], Field(min_length=1)] | None
    ) = None
    document: Annotated[str, Field(min_length=1)] | None = None

    job_class: JobClass = JobClass.STANDARD
    tenant: TenantName = "default"
    idempotency_key: Annotated[str, Field(pattern=rf"^{_IDEMPOTENCY_KEY}$")] | None = None
    delay_s: Annotated[float, Field(ge=0, le=31_536_000)] = 0.0
    deadline_s: Annotated[float, Field(gt=0, le=31_536_000)] | None = None
    max_runtime_s: Annotated[float, Field(gt=0, le=31_536_000)] | None = None
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    webhook: Webhook | None = None
    stream: bool = True
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
        Field(max_length=64),
    ] = Field(default_factory=dict)

    @field_validator("model")
    @classmethod
    def _named(cls, model: str) -> str:
        if not is_model_name(model):
            raise ValueError("must be 1 to 128 letters, digits or _ . / -, beginning with a letter or digit")
        return model

    @model_validator(mode="before")
    @classmethod
    def _reserves_its_prompt_only(cls, data: Any) -> Any:
        return with_no_output(data)

    @field_validator("max_tokens")
    @classmethod
    def _wants_something(cls, max_tokens: int, info: ValidationInfo) -> int:
        if max_tokens == 0 and info.data.get("prompt_logprobs") is None:
            raise ValueError("must be at least 1, or 0 with prompt_logprobs")
        return max_tokens

    @field_validator("tool_choice")
    @classmethod
    def _offered(cls, choice: str | dict[str, Any] | None, info: ValidationInfo) -> object:
        if choice in (None, "none", "auto") or "tools" not in info.data:
            return choice
        names = [function_name(tool) for tool in info.data["tools"] or ()]
        if not names:
            raise ValueError("asks for a call, but there are no tools")
        if isinstance(choice, dict) and choice["function"]["name"] not in names:
            raise ValueError("must name one of the tools")
        return choice

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        refuse_output(self, Job.model_fields)
        given = [
            name for name in ("prompt", "messages", "prompt_token_ids") if getattr(self, name) is not None
        ]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"give exactly one of prompt, messages and prompt_token_ids (got {found})")
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens={self.min_tokens} is above max_tokens={self.max_tokens}")
        if self.tools is not None and self.messages is None:
            raise ValueError("tools need messages: they are passed to the chat template")
        for name in ("tool_choice", "reasoning_effort", "max_reasoning_tokens", "chat_template_kwargs"):
            if getattr(self, name) is not None and self.messages is None:
                raise ValueError(f"{name} needs messages: it is about an answer in a chat")
        self._check_second_part()
        self._check_form()
        return self

    def _check_second_part(self) -> None:
        """Refuse what doesn't fit behind its prompt."""
        if self.document is not None and self.prompt is None:
            raise ValueError("document needs its query as prompt")
        by_ids = self.prompt_token_ids is not None
        if self.continuation is not None and isinstance(self.continuation, str) == by_ids:
            behind = "token ids after prompt_token_ids" if by_ids else "a text after a prompt or messages"
            raise ValueError(f"continuation must be {behind}")

    def _check_form(self) -> None:
        """Refuse what contradicts a form of the answer."""
        asked = [
            name for name in ("response_format", "structured_outputs") if getattr(self, name) is not None
        ]
        if len(asked) > 1:
            raise ValueError(f"give only one of {' and '.join(asked)}: each asks for a form of the answer")
        if self.tool_choice not in (None, "none", "auto"):
            asked.append("tool_choice")  # the answer is a call, whose form comes before the other
        if self.max_reasoning_tokens is not None:
            other = [*asked[:1], "allowed_token_ids"] if self.allowed_token_ids else asked[:1]
            if other not in ([], ["tool_choice"]):
                raise ValueError(
                    f"max_reasoning_tokens can't be combined with {other[0]}; leave one of them out"
                )
        if not asked:
            return
        if self.allowed_token_ids:
            raise ValueError(
                f"allowed_token_ids can't be combined with {asked[0]}, which allows tokens by itself"
            )
        if self.ignore_eos:
            raise ValueError(
                f"ignore_eos can't be combined with {asked[0]}, whose text ends where it is complete"
            )

    @classmethod
    def make(cls, /, **fields: object) -> Self:
        """Make a validated job from keyword arguments.

        Raises:
            InvalidJob: naming the first field that is wrong, its value and what is allowed.
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise invalid(error) from None

    @property
    def takes_a_grammar(self) -> bool:
        """Whether its answer may be held to a grammar, which allows tokens, and ends the text, by itself."""
        return not self.allowed_token_ids and not self.ignore_eos

    @property
    def prompt_bytes(self) -> int:
        """The size of the text to read in UTF-8 bytes; 0 if the prompt is given as token ids."""
        size = len(self.document.encode()) if self.document is not None else 0
        if isinstance(self.continuation, str):
            size += len(self.continuation.encode())
        if self.prompt is not None:
            return size + len(self.prompt.encode())
        if self.messages is not None:
            return size + sum(len(message.model_dump_json().encode()) for message in self.messages)
        return 0


def is_idempotency_key(key: object) -> TypeGuard[str]:
    """Whether `key` can be a job's `idempotency_key`."""
    return isinstance(key, str) and re.fullmatch(_IDEMPOTENCY_KEY, key) is not None


_OF_A_KEY = "[key]"
"""How pydantic says that it is a dict's key that is wrong, and not what stands under it."""


_CONTINUATION_AS_TEXT = ("continuation", "constrained-str")
"""Where pydantic finds what is wrong with a continuation as a text."""


def invalid(error: ValidationError, within: tuple[str, ...] = ()) -> InvalidJob:
    """The first thing wrong with a job, without secrets; `within` is the path to the checked fields."""
    first, *others = error.errors(include_url=False)
    if first["loc"][:2] == _CONTINUATION_AS_TEXT:
        # It may be a text or token ids, and pydantic says what is wrong with it as either.
        if first["type"] == "string_type":
            first = next((other for other in others if other["loc"][:1] == first["loc"][:1]), first)
        first["loc"] = (first["loc"][0], *first["loc"][2:])
    location = tuple(shown_name(str(part)) for part in (*within, *first["loc"]) if part != _OF_A_KEY)
    reason = in_words(first)
    if _OF_A_KEY in first["loc"]:
        reason = f"its key {reason}"
    if location and first["type"] != "missing" and "secret" not in location:
        known = first["type"] != "extra_forbidden"
        reason += f" (got {shown_in_error(location, first['input'], known=known)})"
        if not known:
            fields = Webhook.model_fields if location[0] == "webhook" else Job.model_fields
            reason += did_you_mean(location[-1], fields)
    return InvalidJob(".".join(location) or "job", reason)
