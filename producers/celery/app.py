"""A Celery app with only `generate`, for `celery -A headrace.celery flower` and for projects without an app.

A project with an app of its own doesn't need it: `generate` is a shared task and belongs to every app.
"""

from celery import Celery, _state

from ...schemas.redis.celery_broker import Broker, broker
from ...schemas.settings.celery import CelerySettings


def make_app(settings: CelerySettings) -> Celery:
    """The app on the broker and result backend of `settings`: headrace's Redis unless told otherwise."""
    own = broker(settings.redis_url, settings.namespace) or Broker("memory://", None, {})
    # The importing project's app stays the current one, so that `generate.delay` uses its settings.
    alone = _state.default_app is None and _state._tls.current_app is None
    app = Celery("headrace", set_as_current=alone)
    app.conf.update(
        broker_url=settings.celery_broker_url or own.url,
        result_backend=settings.celery_result_backend or own.url,
        broker_use_ssl=own.tls if settings.celery_broker_url is None else None,
        redis_backend_use_ssl=own.tls if settings.celery_result_backend is None else None,
        broker_transport_options=own.transport_options
        if settings.celery_broker_url is None
        else settings.celery_broker_transport_options,
        result_backend_transport_options=own.transport_options
        if settings.celery_result_backend is None
        else {},
        broker_connection_retry_on_startup=True,
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
    )
    return app
