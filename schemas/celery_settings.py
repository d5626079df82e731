"""Settings of whatever meets Celery: the task, the workers' hosts, the callbacks."""

from typing import Literal

from pydantic import Field

from .config import CommonSettings


class CelerySettings(CommonSettings):
    """Where Celery keeps its messages and results, and what it shows of jobs.

    Attributes:
        celery_broker_url: the broker of the `headrace.celery` app, and of the hosts; headrace's own Redis
        when not given. celery_result_backend: where it keeps results; headrace's own Redis when not given.
        show_prompts: what Flower and Celery's events show of a prompt and its answer: the size, the start, or
        all of it.
    """

    celery_broker_url: str | None = Field(default=None, min_length=1, repr=False)
    celery_result_backend: str | None = Field(default=None, min_length=1, repr=False)
    show_prompts: Literal["size", "start", "all"] = "size"
