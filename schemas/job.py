"""What a producer asks for: one generation job. What travels is a `wire.WireJob`."""

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from .errors import InvalidJob
from .keys import is_model_name
from .plain_json import check_json
from .redaction import shown_in_error, shown_name
from .webhooks.signing import check_secret
from .webhooks.target import Refused, check_url
from .wording import did_you_mean, in_words

SCHEMA_VERSION = 1
"""Raised when a worker of the version before could misread a job; it is then left for a newer worker."""

MAX_SEED = 2**63 - 1

MAX_LOGIT_BIASES = 1024

_ALL_TOKENS = 2**31 - 1
"""More than any vocabulary has: a `top_k` as large or larger keeps all, and travels as this."""


class JobClass(StrEnum):
    """How urgent a job is. Workers read the classes in this order."""

    INTERACTIVE = "interactive"
    STANDARD = "standard"
    BATCH = "batch"


class WebhookEvent(StrEnum):
    """What a webhook can be told of."""

    STARTED = "job.started"
    SUCCEEDED = "job.succeeded"
    FAILED = "job.failed"
    CANCELLED = "job.cancelled"
    EXPIRED = "job.expired"


_ENDINGS = (WebhookEvent.SUCCEEDED, WebhookEvent.FAILED, WebhookEvent.CANCELLED, WebhookEvent.EXPIRED)


class _Calls(type(BaseModel)):  # type: ignore[misc]
    """Makes a class that is called raise what all of headrace raises; a part that is a dict is not called."""

    def __call__(cls, *args: object, **fields: object) -> object:
        try:
            return super().__call__(*args, **fields)
        except ValidationError as error:
            raise invalid(error, within=cls._PART_OF) from None


if TYPE_CHECKING:
    _Model = BaseModel
else:

    class _Model(BaseModel, metaclass=_Calls):
        pass


class _Wire(_Model):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)
    _PART_OF: ClassVar[tuple[str, ...]] = ()


class Webhook(_Wire):
    """Where to tell a backend what became of its job.

    Attributes:
        url: an http(s) address.
        events: which events to send; the four endings when not given.
        secret: signs the body (Standard Webhooks), instead of the tenant's; never shown in logs or reprs.
        payload: `full` has the whole result; `thin` leaves text and tokens out.
    """

    _PART_OF: ClassVar[tuple[str, ...]] = ("webhook",)

    url: Annotated[str, Field(max_length=2048)]
    events: tuple[WebhookEvent, ...] = _ENDINGS
    secret: SecretStr | None = None
    payload: Literal["full", "thin"] = "full"

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

    @field_serializer("secret", when_used="json")
    def _reveal(self, secret: SecretStr | None) -> str | None:
        return None if secret is None else secret.get_secret_value()


ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython", "observation")
"""OpenAI's, and what Llama's and GLM's templates call a tool."""

_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Kinds of content parts that are texts, and where each has it."""


def _flat(content: object) -> object:
    """A list of text parts as one text, its parts on lines of their own, as vLLM has it."""
    if not isinstance(content, list | tuple):
        return content
    if not content:
        raise ValueError("has no part; give a text")
    texts = []
    for place, part in enumerate(content):
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = part.get("type", "text") if isinstance(part, Mapping) else None
        if not isinstance(kind, str):
            raise ValueError(f"part {place} must be a text or a dict with a type")  # noqa: TRY004
        if kind not in _TEXTS:
            raise ValueError(f"part {place} is of type {shown_name(kind)!r}: models here read text alone")
        text = part.get(_TEXTS[kind])
        if not isinstance(text, str):
            raise ValueError(f"part {place} must have a text under {_TEXTS[kind]!r}")  # noqa: TRY004
        texts.append(text)
    return "\n".join(texts)


class Message(_Wire):
    """One chat message. Further keys of the OpenAI format travel on to the chat template as they are.

    Attributes:
        role: one of `ROLES`.
        content: a text; a list of text parts becomes one. An assistant's may be null beside `tool_calls`.
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


TenantName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@-]{1,64}$")]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class Job(_Wire):
    """One generation job. Sampling parameters have the names and meanings of the OpenAI API and vLLM.

    Exactly one of `prompt`, `messages` and `prompt_token_ids` is given.

    Attributes:
        model: the served name of the model.
        tools: function definitions, handed to the chat template.
        max_tokens: most tokens to generate; generation also ends where the model's context is full.
        min_tokens: no end of text, stop token or stop string ends it before this many tokens.
        temperature: 0 is greedy, and so is less than 0.00001.
        top_p: however small, the most likely token stays.
        top_k: 0 keeps all, and so does what is no less than the vocabulary.
        logit_bias: at most 1,024 entries.
        seed: sampling noise depends on (seed, position) alone; without one it follows from the job's id, so
            that a resumed job goes on with the same tokens.
        logprobs: log-probabilities of the sampled token and of this many most likely ones.
        job_class: `interactive`, `standard` or `batch`.
        tenant: whose job it is; tenants share the workers fairly.
        delay_s: not before this many seconds from now.
        deadline_s: it expires when it has not ended within this many seconds.
        max_runtime_s: it expires when it has not ended this many seconds after its first start.
        max_attempts: how often a worker may die over this job alone before it is dead-lettered.
        stream: false lets the worker checkpoint at longer intervals.
        metadata: returned with the job's status and webhooks, never looked at; bounded as their body is.
    """

    model: str
    prompt: Annotated[str, Field(min_length=1)] | None = None
    messages: Annotated[tuple[Message, ...], Field(min_length=1)] | None = None
    prompt_token_ids: Annotated[tuple[TokenId, ...], Field(min_length=1)] | None = None
    tools: tuple[Annotated[dict[str, Any], AfterValidator(check_json)], ...] | None = None

    max_tokens: Annotated[int, Field(ge=1, le=2**24)] = 256
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
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    stop: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=256)], ...],
        BeforeValidator(_one_or_many),
        Field(max_length=16),
    ] = ()
    stop_token_ids: Annotated[tuple[TokenId, ...], Field(max_length=64)] = ()
    ignore_eos: bool = False
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: Literal["text"] | None = None
    n: Literal[1] = 1

    job_class: JobClass = JobClass.STANDARD
    tenant: TenantName = "default"
    idempotency_key: Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,255}$")] | None = None
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

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = [
            name for name in ("prompt", "messages", "prompt_token_ids") if getattr(self, name) is not None
        ]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"give exactly one of prompt, messages and prompt_token_ids (got {found})")
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens={self.min_tokens} is above max_tokens={self.max_tokens}")
        if self.tools is not None and self.messages is None:
            raise ValueError("tools need messages: they are handed to the chat template")
        return self

    @classmethod
    def make(cls, /, **fields: object) -> Self:
        """A validated job from keyword arguments.

        Raises:
            InvalidJob: naming the first field that is wrong, its value and what is allowed.
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise invalid(error) from None

    @property
    def prompt_bytes(self) -> int:
        """The size of the prompt's text in UTF-8 bytes; 0 when the prompt is given as token ids."""
        if self.prompt is not None:
            return len(self.prompt.encode())
        if self.messages is not None:
            return sum(len(message.model_dump_json().encode()) for message in self.messages)
        return 0


def invalid(error: ValidationError, within: tuple[str, ...] = ()) -> InvalidJob:
    """What is wrong first of all, without what may be secret; `within` is where the fields stand in a job."""
    first = error.errors(include_url=False)[0]
    location = tuple(shown_name(str(part)) for part in (*within, *first["loc"]))
    reason = in_words(first)
    if location and first["type"] != "missing" and "secret" not in location:
        known = first["type"] != "extra_forbidden"
        reason += f" (got {shown_in_error(location, first['input'], known=known)})"
        if not known:
            fields = Webhook.model_fields if location[0] == "webhook" else Job.model_fields
            reason += did_you_mean(location[-1], fields)
    if location and location[0] == "n":
        reason += "; enqueue several jobs with enqueue_many for several answers"
    return InvalidJob(".".join(location) or "job", reason)
