"""A generation sent by its name alone, as Celery's events, logs and `inspect` see it."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from headrace.producers.celery.request import GenerateRequest
from headrace.producers.celery.task import NAME

HOOK = {"url": "https://example.org", "secret": "whsec_topsecret"}


@pytest.fixture
def task(celery_task: Any) -> Any:
    return celery_task


def received(task: Any, *args: Any, **kwargs: Any) -> GenerateRequest:
    """The request for what a sender's Celery has written."""
    message = SimpleNamespace(
        headers={"id": "1", "task": NAME, "argsrepr": repr(args), "kwargsrepr": repr(kwargs)},
        body="",
        payload=(args, kwargs, {}),
        content_type="application/json",
        content_encoding="utf-8",
        delivery_info={},
        properties={},
    )
    return GenerateRequest(message, app=task.app, task=task)


@pytest.mark.parametrize(("policy", "args"), [("size", "(<9 characters>,)"), ("start", "('topsecret',)")])
def test_it_shows_what_the_policy_allows(task: Any, monkeypatch: pytest.MonkeyPatch, policy: str, args: str):
    monkeypatch.setenv("HEADRACE_SHOW_PROMPTS", policy)
    request = received(task, "topsecret", webhook=HOOK, max_tokens=5)
    assert request.argsrepr == request.info()["args"] == request.request_dict["argsrepr"] == args
    assert request.kwargsrepr == "{'webhook': <2 items>, 'max_tokens': 5}"


@pytest.mark.parametrize("policy", ["size", "start", "all"])
def test_it_never_shows_the_secret_of_a_webhook(task: Any, monkeypatch: pytest.MonkeyPatch, policy: str):
    monkeypatch.setenv("HEADRACE_SHOW_PROMPTS", policy)
    request = received(task, "x", webhook=HOOK)
    seen = (request.argsrepr, request.kwargsrepr, repr(request), str(request), json.dumps(request.info()))
    assert "topsecret" not in "".join(seen)
    assert request.kwargs == {"webhook": HOOK}
