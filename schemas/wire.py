"""A job as it travels through Redis: what was asked for, and what headrace itself adds."""

import json
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator

from .adapters import JobAdapter, ModelAdapter
from .celery_task import read_headers
from .errors import InvalidJob
from .job import SCHEMA_VERSION, Job, WebhookEvent, invalid

IDS_AT_ONCE = 8192
"""Token ids that are written in one go, during which no other thread of the process runs."""


class TokenizerTask(BaseModel):
    """What a job wants of the model's tokenizer, instead of an answer of the model.

    Attributes:
        kind: `tokenize`: the prompt's token ids. `count`: only their number, even if they are more than the
            model's context. `detokenize`: the text of `prompt_token_ids`.
        add_special_tokens: add those that the tokenizer itself adds; None: to a prompt, and not to messages.
        add_generation_prompt: end messages with the beginning of the assistant's next turn.
        token_strs: give each token's name in the vocabulary, too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["tokenize", "count", "detokenize"]
    add_special_tokens: bool | None = None
    add_generation_prompt: bool = True
    token_strs: bool = False


class WireJob(Job):
    """A job as it travels. User input is never parsed as one.

    Attributes:
        v: the schema version that a reader must know to understand the job.
        celery: completes a Celery task when the job has ended: the task's message without its arguments, as
            JSON, signed (see `task_part`). The task `headrace.generate` writes it.
        tokenizer: the job is done when its prompt has been read: nothing is generated. The gateway writes it.
            A worker that doesn't know it refuses the job by this name.
        adapter: computes the job, on top of `model`. A producer finds it by the name that was asked for.
    """

    v: Annotated[int, Field(ge=1, lt=2**31)] = SCHEMA_VERSION
    celery: str | None = None
    tokenizer: TokenizerTask | None = None
    adapter: JobAdapter | None = None
    _filled_in: frozenset[str] = PrivateAttr(frozenset())
    _chosen: bool = PrivateAttr(False)

    @field_validator("celery")
    @classmethod
    def _completes_a_task(cls, celery: str | None) -> str | None:
        if celery is not None:
            read_headers(celery)
        return celery

    @classmethod
    def of(cls, job: Job, celery: str | None = None, filled_in: Collection[str] = ()) -> Self:
        """Make a travelling job from one that was asked for; a `WireJob` is returned as it is.

        `filled_in` names the fields that a gateway gave their values; see `asked_for`.
        """
        if isinstance(job, cls):
            return job
        # Without validation, which the job has been through.
        made = cls.model_construct(**{name: getattr(job, name) for name in Job.model_fields}, celery=celery)
        made._filled_in = frozenset(filled_in)
        return made

    def sent_to(self, model: str) -> Self:
        """The job for the model that was chosen for it, whose name is then no alias's."""
        made = self.model_copy(update={"model": model})
        made._chosen = True
        return made

    def completing(self, celery: str) -> Self:
        """The job that completes a Celery task, given by its message."""
        return self.model_copy(update={"celery": celery})

    def adapted(self, adapter: ModelAdapter) -> Self:
        """The job for an adapter of a model, whose name is then no alias's."""
        made = self.model_copy(update={"model": adapter.base, "adapter": adapter.of_job})
        made._chosen = True
        return made

    @property
    def chosen(self) -> bool:
        """Whether its model was chosen; otherwise it may name an alias."""
        return self._chosen

    def asked_for(self) -> dict[str, Any]:
        """What the caller asked for, which is equal if the same request is sent again.

        What a gateway filled in is not among it: a model's context, or a key's classes, may have changed. Nor
        is the schema version: the same request may come from an upgraded producer. Of an adapter it has the
        name, whose content may have been replaced.
        """
        asked = self.model_dump(mode="json", exclude={"v", "adapter", *self._filled_in})
        return asked if self.adapter is None else asked | {"model": self.adapter.name}

    @classmethod
    def from_wire(cls, spec: str | bytes) -> Self:
        """Read the job that a producer wrote with `to_wire`.

        Raises:
            InvalidJob: the record is not a job of this or an earlier schema version.
        """
        try:
            return cls.model_validate_json(spec)
        except ValidationError as error:
            raise invalid(error) from None

    def to_wire(self) -> str:
        """The job as JSON, without defaults.

        Raises:
            InvalidJob: a value was changed after validation and can't be written.
        """
        try:
            ids = self.prompt_token_ids or ()
            apart = {"prompt_token_ids"} if len(ids) > IDS_AT_ONCE else None
            fields = self.model_dump(mode="json", exclude_defaults=True, exclude=apart)
            # `v` always, though it is a default: what a reader must know before all else.
            text = json.dumps({"v": self.v, **fields}, ensure_ascii=False, separators=(",", ":"))
            text.encode()
            if apart is not None:
                text = f'{text[:-1]},"prompt_token_ids":[{_joined(ids)}]}}'
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidJob("job", f"can't be written as JSON ({type(error).__name__})") from None
        return text

    @property
    def events(self) -> tuple[WebhookEvent, ...]:
        """The events for which the protocol writes an outbox entry."""
        if self.celery is not None:  # a task's state follows all of them
            return tuple(WebhookEvent)
        return self.webhook.events if self.webhook else ()


def _joined(ids: Sequence[int]) -> str:
    """Token ids as a JSON list's inside, a piece at a time."""
    pieces = range(0, len(ids), IDS_AT_ONCE)
    return ",".join(",".join(map(int.__repr__, ids[at : at + IDS_AT_ONCE])) for at in pieces)
