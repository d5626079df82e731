"""What `Client` and `AsyncClient` have in common: their settings and the signature of `enqueue`."""

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, Generic, Literal, Self, TypeVar, cast

from pydantic import BaseModel

from ..schemas.errors import BadSetting, HeadraceError, JobsRefused
from ..schemas.job import Job, JobClass, Webhook
from ..schemas.keys import NAMESPACE
from ..schemas.redis.connection import Kind, address_of
from ..schemas.response_format import ResponseFormat, StructuredOutputs
from ..schemas.settings.queue import (
    LONGEST_KEPT_S,
    LONGEST_WAIT_S,
    MOST_PARTITIONS,
    MOST_REPLICAS,
    Limits,
    QueueSettings,
)
from ..schemas.wording import did_you_mean
from .operations import Operations

DEFAULT_URL = "redis://localhost:6379/0"

MAX_CONNECTIONS = 16
"""Maximum number of requests that one client has in flight, so that a thousand streams that resume together
don't open a thousand connections."""

USUAL_MAX_TOKENS = 256

Enqueued = TypeVar("Enqueued")
C = TypeVar("C")
H = TypeVar("H")
M = TypeVar("M", bound=Callable[..., Any])


def _suggesting(method: M) -> M:
    """Make the `TypeError` for a misspelt argument name the one that was probably meant."""
    known = inspect.signature(method).parameters.keys()

    @wraps(method)
    def call(*args: Any, **arguments: Any) -> Any:
        for name in arguments.keys() - known:
            hint = did_you_mean(name, known)
            raise TypeError(f"{method.__name__}() got an unexpected keyword argument {name!r}{hint}")
        return method(*args, **arguments)

    return cast("M", call)


class Producer(ABC, Generic[Enqueued]):
    """The settings of a client, and `enqueue`, which returns an `Enqueued`: a handle, or an awaitable one."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        namespace: str = NAMESPACE,
        partitions: int = 1,
        retention_s: float = 86_400.0,
        idempotency_s: float = 86_400.0,
        limits: Limits | None = None,
        check_model: bool = True,
        retry_s: float = 5.0,
        wait_replicas: int = 0,
        wait_s: float = 1.0,
    ) -> None:
        """Make a client; it doesn't connect before the first call.

        Args:
            url: `redis://[user:password@]host:port/db`, `rediss://` for TLS, `unix:///path`,
                `redis+sentinel://host:port,host:port/service`, `redis+cluster://host:port,host:port`.
            namespace: the first part of every key; the same for all producers and workers.
            partitions: queues that a model's jobs are spread over; the same for all producers and workers.
            retention_s: how long an ended job stays readable.
            idempotency_s: how long an idempotency key is remembered.
            limits: the largest job, and how much one class of one tenant may queue.
            check_model: refuse jobs for a model that no worker has ever served here.
            retry_s: how long a call is retried while the connection to Redis is lost.
            wait_replicas: number of replicas that must have a job before `enqueue` returns, so that a
                failover can't lose it; not on a Cluster.
            wait_s: how long each try waits for them; tries are repeated within `retry_s`.

        Raises:
            BadSetting: a setting is out of range, or `url` is not a Redis URL.
        """
        address = address_of(url)
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,32}", namespace):
            raise BadSetting(f"namespace = {namespace!r}: must be 1 to 32 letters, digits or _ . -")
        _check_whole("partitions", partitions, 1, MOST_PARTITIONS)
        _check_whole("wait_replicas", wait_replicas, 0, MOST_REPLICAS)
        _check_time("retention_s", retention_s, LONGEST_KEPT_S)
        _check_time("idempotency_s", idempotency_s, LONGEST_KEPT_S)
        _check_time("wait_s", wait_s, LONGEST_WAIT_S)
        if retry_s != 0:
            _check_time("retry_s", retry_s, LONGEST_KEPT_S)
        if wait_replicas and address.kind is Kind.CLUSTER:
            raise BadSetting(
                "wait_replicas: a Redis Cluster has no single connection to wait on; leave it at 0"
            )
        settings = QueueSettings(
            namespace=namespace,
            partitions=partitions,
            retention_s=retention_s,
            idempotency_s=idempotency_s,
            limits=limits or Limits(),
        )
        self._operations = Operations(
            settings, check_model=check_model, retry_s=retry_s, wait_replicas=wait_replicas, wait_s=wait_s
        )
        self._connect(url)

    @abstractmethod
    def _connect(self, url: str) -> None: ...

    @classmethod
    def from_env(cls, url: str | None = None, *, check_model: bool = True, retry_s: float = 5.0) -> Self:
        """Make a client with settings from `HEADRACE_*` variables and `headrace.toml`; `url` overrides them.

        Raises:
            BadSetting: a setting is wrong; the message names the first one.
        """
        from ..schemas.settings.common import (
            CommonSettings,  # slow to import, and the client itself doesn't need it
        )

        settings = CommonSettings.load(redis_url=url)
        return cls(
            settings.redis_url,
            namespace=settings.namespace,
            partitions=settings.partitions,
            retention_s=settings.retention_s,
            idempotency_s=settings.idempotency_s,
            limits=settings.queue.limits,
            check_model=check_model,
            retry_s=retry_s,
            wait_replicas=settings.wait_replicas,
            wait_s=settings.wait_s,
        )

    @_suggesting
    def enqueue(
        self,
        prompt: str | None = None,
        *,
        model: str,
        messages: Sequence[Mapping[str, Any]] | None = None,
        prompt_token_ids: Sequence[int] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: Literal["none", "auto", "required"] | Mapping[str, Any] | None = None,
        parallel_tool_calls: bool = True,
        reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None,
        max_reasoning_tokens: int | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        truncate_prompt_tokens: int | None = None,
        truncation_side: Literal["left", "right"] = "left",
        max_tokens: int = USUAL_MAX_TOKENS,
        min_tokens: int = 0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repetition_penalty: float = 1.0,
        logit_bias: Mapping[int, float] | None = None,
        allowed_token_ids: Sequence[int] = (),
        bad_words: Sequence[str] = (),
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        stop_token_ids: Sequence[int] = (),
        ignore_eos: bool = False,
        logprobs: int | None = None,
        prompt_logprobs: int | None = None,
        response_format: ResponseFormat | type[BaseModel] | Literal["text", "json_object"] | None = None,
        structured_outputs: StructuredOutputs | None = None,
        n: int = 1,
        embed: Mapping[str, Any] | bool | None = None,
        continuation: str | Sequence[int] | None = None,
        document: str | None = None,
        job_class: JobClass | Literal["interactive", "standard", "batch"] = JobClass.STANDARD,
        tenant: str = "default",
        idempotency_key: str | None = None,
        delay_s: float = 0.0,
        deadline_s: float | None = None,
        max_runtime_s: float | None = None,
        max_attempts: int = 3,
        webhook: Webhook | None = None,
        stream: bool = True,
        metadata: Mapping[str, str] | None = None,
    ) -> Enqueued:
        """Enqueue one generation job and return a handle to it.

        Give exactly one of `prompt`, `messages` and `prompt_token_ids`; None means not given. If the
        connection is lost, the call is retried for up to the client's `retry_s`; the job is still enqueued
        only once.

        Args:
            prompt: text to continue.
            model: the served name of the model; see `client.models()`.
            messages: a chat, `[{"role": ..., "content": ...}]`, formatted by the model's chat template.
            prompt_token_ids: a prompt as token ids.
            tools: functions that the model may call, as in OpenAI's API; calls are in the result.
            tool_choice: "auto", "none", or "required" or a function to make the answer a call.
            parallel_tool_calls: False if only one call is wanted.
            reasoning_effort: how much to think first, for models whose chat template knows that.
            max_reasoning_tokens: end the reasoning after this many tokens; the answer follows.
            chat_template_kwargs: more variables for the chat template, such as `enable_thinking`.
            truncate_prompt_tokens: keep at most this many of the prompt's tokens; a longer one isn't refused.
            truncation_side: where a longer prompt loses its tokens.
            max_tokens: maximum number of tokens to generate; a full context ends generation too. 0 only with
                `prompt_logprobs`.
            min_tokens: before this many tokens, no end of text, stop token or stop string ends the job.
            temperature: 0 is greedy; 1 samples from the model's distribution.
            top_p: sample from the most likely tokens that together have this probability.
            top_k: sample from this many of the most likely tokens; 0 is all.
            min_p: sample from tokens at least this likely, relative to the most likely one.
            presence_penalty: subtracted from the logits of tokens generated before.
            frequency_penalty: the same, multiplied by how often they were generated.
            repetition_penalty: divides the logits of tokens seen before; 1 has no effect.
            logit_bias: added to the logits of these token ids.
            allowed_token_ids: only these tokens are generated; an end of text must be among them to occur.
            bad_words: texts that aren't generated.
            seed: the same seed gives the same tokens; by default it is derived from the job's id.
            stop: strings that end the text; they are not part of it.
            stop_token_ids: tokens that end the text.
            ignore_eos: continue past the model's end-of-text token.
            logprobs: return log-probabilities, and those of this many of the most likely tokens.
            prompt_logprobs: the same for the prompt's tokens; they are in the result.
            response_format: JSON as the answer, as in OpenAI's API: `{"type": "json_object"}`, or
                `{"type": "json_schema", "json_schema": {"name": ..., "schema": ...}}`, or a pydantic model.
            structured_outputs: one of `json` (a schema), `regex`, `choice` and `grammar` (Lark), which the
                answer follows, as in vLLM.
            n: how many answers to generate, each of up to `max_tokens`; they are the result's `choices`, and
                a stream's chunks say of which `choice` they are.
            embed: generate nothing: the result's `embedding` is the prompt's vector. True, or how to pool it,
                `{"pooling": ..., "normalize": ..., "dimensions": ...}`; see `Client.embed`.
            continuation: generate nothing: the result's `prompt_logprobs` say how likely this is after the
                prompt; a text, or token ids after `prompt_token_ids`. See `Client.score`.
            document: generate nothing: the result's `score` says how well this text answers the prompt, a
                query.
            job_class: "interactive" runs before "standard", which runs before "batch".
            tenant: the tenant that owns the job; tenants share the workers fairly.
            idempotency_key: a second job with the same key and body is the first one.
            delay_s: don't start for this many seconds.
            deadline_s: expire if the job has not ended within this many seconds.
            max_runtime_s: expire if the job has not ended this many seconds after it first started.
            max_attempts: how often a worker may die while running this job alone before it fails.
            webhook: a receiver for the job's events.
            stream: False if nobody will read the stream, which is then written less often.
            metadata: returned with the job's status and webhooks; at most 64 keys of at most 64 characters,
                with values of at most 512.

        Raises:
            InvalidJob: an argument is out of range, or the job is too large.
            UnknownModel: no worker has ever served that model here.
            QueueFull: the tenant's queue is at its limit; see `retry_after_s`.
            RateLimited: the tenant has used up this minute's requests or tokens; see `retry_after_s`.
            IdempotencyConflict: the idempotency key was used with another body.
            BrokerUnavailable: Redis can't be reached, refuses the command, or is too old.
        """
        # The first statement, while the locals are exactly the arguments.
        arguments = {name: value for name, value in locals().items() if name != "self" and value is not None}
        if embed or continuation is not None or document is not None:
            arguments.pop("max_tokens" if max_tokens == USUAL_MAX_TOKENS else "", None)  # it has none
        return self._enqueue(Job.make(**arguments))

    @abstractmethod
    def _enqueue(self, job: Job) -> Enqueued: ...


def _check_whole(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise BadSetting(f"{name} = {value!r}: must be a whole number from {least} to {most}")


def _check_time(name: str, value: object, most_s: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most_s:
        raise BadSetting(f"{name} = {value!r}: must be a number of seconds above 0, at most {most_s:,g}")


class Handle(Generic[C]):
    """A job's id, and the client that asks about it."""

    __slots__ = ("_client", "id")

    def __init__(self, client: C, job_id: str) -> None:
        self._client = client
        self.id = job_id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)


def handles(outcomes: list[str | HeadraceError], handle: Callable[[str], H]) -> list[H]:
    """Return the handles of enqueued jobs.

    Raises:
        JobsRefused: some jobs were not enqueued.
    """
    made = [handle(outcome) if isinstance(outcome, str) else outcome for outcome in outcomes]
    accepted = [outcome for outcome in made if not isinstance(outcome, HeadraceError)]
    if len(accepted) < len(made):
        raise JobsRefused(made)
    return accepted
