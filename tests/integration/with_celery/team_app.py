"""A team's own Celery project: its broker, its backend, its tasks, and `generate` among them."""

import os

from celery import Celery, shared_task


def make_app() -> Celery:
    """The app on the broker and backend that the environment names."""
    app = Celery("team", broker=os.environ["TEAM_BROKER_URL"], backend=os.environ["TEAM_BACKEND_URL"])
    app.conf.update(
        broker_connection_retry_on_startup=True,
        worker_cancel_long_running_tasks_on_connection_loss=True,
        result_expires=600,
    )
    return app


app = make_app()

from headrace.celery import generate  # noqa: E402


def _text(given):
    return given["text"] if isinstance(given, dict) else given


@shared_task(name="team.shout")
def shout(given):
    return _text(given).upper()


@shared_task(name="team.join", bind=True)
def join(self, given):
    """A chord's body; counts its runs."""
    self.app.backend.client.incr("joined")
    return [_text(one) for one in given]


@shared_task(name="team.note_error")
def note_error(request, exc, traceback):
    """An errback."""
    from celery import current_app

    current_app.backend.client.set("noted-error", str(exc))


@shared_task(name="team.think", bind=True, max_retries=3)
def think(self, prompt, retries=0, **params):
    """An ordinary task that becomes a generation, after some tries if it must."""
    if self.request.retries < retries:
        raise self.retry(countdown=0.1)
    raise self.replace(generate.s(prompt, **params))
