"""headrace for Celery: `from headrace.celery import generate`; `celery -A headrace.celery flower`.

`generate` is a shared task: in a project with a Celery app of its own it belongs to that app, to its broker
and result backend. `app` is for everybody else.
"""

try:
    import celery  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "celery":
        raise
    missing = "headrace.celery needs Celery, which is not installed: pip install 'headrace[celery]'"
    raise ModuleNotFoundError(missing, name="celery") from None

from .producers.celery.app import make_app
from .producers.celery.result import GenerationResult
from .producers.celery.task import generate
from .schemas.settings.celery import CelerySettings
from .workers.celery_worker import control  # noqa: F401 (declares the commands that `celery control` may send)

app = make_app(CelerySettings.load())

__all__ = ["GenerationResult", "app", "generate"]
