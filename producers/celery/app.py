"""The Celery app that has nothing but `generate`: for `celery -A headrace.celery flower`, or for lack of one.

A team with an app of its own needs none of this: `generate` is a shared task and is in every app.
"""

from celery import Celery, _state

from ...schemas.keys import celery_prefix
from .settings import CelerySettings


def make_app(settings: CelerySettings) -> Celery:
    """The app on the broker and result backend of `settings`: headrace's Redis unless told otherwise."""
    prefix = {"global_keyprefix": celery_prefix(settings.namespace)}
    # The app of whoever imported this stays the current one, so that `generate.delay` goes by its settings.
    alone = _state.default_app is None and _state._tls.current_app is None
    app = Celery("headrace", set_as_current=alone)
    app.conf.update(
        broker_url=settings.celery_broker_url or settings.redis_url,
        result_backend=settings.celery_result_backend or settings.redis_url,
        broker_transport_options=prefix if settings.celery_broker_url is None else {},
        result_backend_transport_options=prefix if settings.celery_result_backend is None else {},
        broker_connection_retry_on_startup=True,
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
    )
    return app
