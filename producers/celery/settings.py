"""Settings of the Celery task."""

from ...schemas.celery_settings import CelerySettings


class TaskSettings(CelerySettings):
    """What `generate` needs to know beside Celery itself.

    Attributes:
        default_model: the model of a `generate` that names none; the only one served when not given.
    """

    default_model: str | None = None
