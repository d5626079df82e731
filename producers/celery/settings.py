"""Settings of the Celery task."""

from typing import Annotated, Literal

from pydantic import Field

from ...schemas.config import CommonSettings


class CelerySettings(CommonSettings):
    """Where Celery keeps its messages and results, and what it shows of jobs.

    Attributes:
        celery_broker_url: the broker of the `headrace.celery` app; headrace's own Redis when not given.
        celery_result_backend: where it keeps results; headrace's own Redis when not given.
        default_model: the model of a `generate` that names none; the only one served when not given.
        show_prompts: what Flower and Celery's events show of a prompt: its size, its start, or all of it.
    """

    celery_broker_url: Annotated[str, Field(min_length=1)] | None = None
    celery_result_backend: Annotated[str, Field(min_length=1)] | None = None
    default_model: str | None = None
    show_prompts: Literal["size", "start", "all"] = "size"
