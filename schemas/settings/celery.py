"""Settings of what talks to Celery: the task, the workers' hosts and the callbacks."""

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import NoDecode

from ..redis.connection.address import ESCAPES
from ..redis.connection.masking import is_unescaped
from .common import CommonSettings


def _from_json(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


class CelerySettings(CommonSettings):
    """Where Celery keeps its messages and results, and what it shows of jobs.

    Attributes:
        celery_broker_url: broker of the `headrace.celery` app and of the hosts; by default headrace's own
        Redis.
        celery_broker_transport_options: that broker's transport options, as JSON; see Celery's setting
            `broker_transport_options`.
        celery_result_backend: where the app keeps results; by default headrace's own Redis.
        show_prompts: how much of a prompt and its answer Flower and Celery's events show: the `size`, the
            `start` or `all`.
    """

    celery_broker_url: str | None = Field(default=None, min_length=1, repr=False)
    celery_broker_transport_options: Annotated[
        dict[str, Any], NoDecode, BeforeValidator(_from_json), Field(default_factory=dict, repr=False)
    ]
    celery_result_backend: str | None = Field(default=None, min_length=1, repr=False)
    show_prompts: Literal["size", "start", "all"] = "size"

    @field_validator("celery_broker_url", "celery_result_backend")
    @classmethod
    def _celery_can_read(cls, url: str | None) -> str | None:
        """Refuse a URL that Celery's own errors would quote, and with it parts of a password."""
        if url is not None and any(map(is_unescaped, url.split(";"))):
            raise ValueError(ESCAPES)
        return url
