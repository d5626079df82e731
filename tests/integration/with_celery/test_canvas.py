"""Every form of Celery's, with generations by a live worker in it."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from celery import chain, chord, group
from celery.exceptions import TaskRevokedError
from tests.support.waiting import wait_until

from headrace import InvalidJob, JobExpired, JobFailed

from .conftest import Installation

pytestmark = [
    pytest.mark.serial,
    pytest.mark.xdist_group("celery"),  # they share an installation
    pytest.mark.filterwarnings("ignore:Call to deprecated setex"),  # Celery's result backend, with redis-py 8
]

FIXED = {"max_tokens": 8, "temperature": 0, "ignore_eos": True}


@pytest.fixture
def says(installation: Installation):
    """What the model answers to a prompt."""
    return lambda prompt: installation.client.enqueue(prompt=prompt, model="demo", **FIXED).result().text


def test_delay_and_get(installation, says):
    result = installation.team.generate.delay("A list is", **FIXED)
    found = result.get(timeout=30)
    assert found["text"] == says("A list is")
    assert found["job_id"] == result.job.id
    assert result.state == "SUCCESS"


def test_get_shows_progress_as_it_streams(installation, says):
    said: list[dict] = []
    result = installation.team.generate.apply_async(("A set is",), {**FIXED, "max_tokens": 40}, countdown=0.2)
    found = result.get(timeout=30, on_message=said.append)
    progress = [message["result"] for message in said if message["status"] == "PROGRESS"]
    assert len(progress) > 1
    assert found["text"].startswith("".join(chunk["text"] for chunk in progress))
    assert [t for chunk in progress for t in chunk["token_ids"]] == found["token_ids"][
        : progress[-1]["offset"]
    ]


def test_chain(installation, says):
    generate, shout = installation.team.generate, installation.team.shout
    assert chain(generate.s("A list is", **FIXED), shout.s())().get(timeout=30) == says("A list is").upper()


def test_generations_one_after_another(installation, says):
    generate, shout = installation.team.generate, installation.team.shout
    found = chain(shout.s("a list is"), generate.s(**FIXED), generate.s(**FIXED), shout.s())().get(timeout=30)
    assert found == says(says("A LIST IS")).upper()


def test_group_mixed_with_ordinary_tasks(installation, says):
    generate, shout = installation.team.generate, installation.team.shout
    parts = group(
        shout.s("x"), generate.s("A set is", **FIXED), chain(generate.s("A key is", **FIXED), shout.s())
    )
    plain, generated, chained = parts().get(timeout=30)
    assert (plain, generated["text"], chained) == ("X", says("A set is"), says("A key is").upper())


def test_nested_chord(installation, says):
    generate, shout, join = installation.team.generate, installation.team.shout, installation.team.join
    inner = chain(generate.s("A key is", **FIXED), shout.s())
    found = chord([generate.s("A set is", **FIXED), inner, group(shout.s("a"), shout.s("b"))])(join.s())
    first, second, *nested = found.get(timeout=30)
    assert (first, second) == (says("A set is"), says("A key is").upper())
    assert sorted(nested) == ["A", "B"]  # Celery gives no order to a group inside a chord


def test_a_generation_as_a_chords_body(installation, says):
    generate, shout = installation.team.generate, installation.team.shout
    body = chain(installation.team.join.s(), shout.si("a list is"), generate.s(**FIXED))
    assert chord([shout.s("x"), generate.s("A", **FIXED)])(body).get(timeout=30)["text"] == says("A LIST IS")


def test_link_and_link_error(installation, says):
    generate, team = installation.team.generate, installation.team
    linked = team.shout.s().set(task_id="linked")
    generate.apply_async(("A list is",), FIXED, link=linked).get(timeout=30)
    assert team.app.AsyncResult("linked").get(timeout=30) == says("A list is").upper()
    failing = generate.apply_async(("x" * 100_000,), link_error=team.note_error.s())
    with pytest.raises(JobFailed, match="context_length"):
        failing.get(timeout=30)
    noted = wait_until(lambda: team.app.backend.client.get("noted-error"), 20)
    assert b"context_length" in noted


def test_countdown_expires_and_priority(installation):
    generate = installation.team.generate
    late = generate.apply_async(("x",), countdown=100, expires=0.5)
    with pytest.raises(JobExpired):
        late.get(timeout=30)
    assert generate.apply_async(("x",), FIXED, priority=0).job.status().job_class == "interactive"


def test_eta_is_when_it_starts_at_the_earliest(installation, says):
    due = datetime.now(UTC) + timedelta(seconds=0.5)
    result = installation.team.generate.apply_async(("A list is",), FIXED, eta=due)
    assert result.get(timeout=30)["text"] == says("A list is")
    assert result.job.status().started_ms >= int(due.timestamp() * 1000)


def test_a_queue_is_the_class_and_a_task_id_makes_one_job(installation, says):
    send = installation.team.generate.apply_async
    first, again = (send(("A list is",), FIXED, queue="batch", task_id="the-teams-own") for _ in range(2))
    assert first.id == again.id == "the-teams-own"
    assert first.job.id == again.job.id
    found = installation.team.app.AsyncResult("the-teams-own").get(timeout=30)
    assert (found["text"], found["job_id"]) == (says("A list is"), first.job.id)
    assert first.job.status().job_class == "batch"


def test_revoke(installation):
    result = installation.team.generate.delay("A list is", max_tokens=1800, ignore_eos=True)
    wait_until(lambda: result.job.status().offset > 5)
    result.revoke()
    with pytest.raises(TaskRevokedError):
        result.get(timeout=30)
    assert result.job.status().state == "cancelled"


def test_a_task_may_retry_and_then_be_replaced_by_a_generation(installation, says):
    think, join = installation.team.think, installation.team.join
    assert think.delay("A list is", retries=2, **FIXED).get(timeout=30)["text"] == says("A list is")
    found = chord([think.s("A set is", **FIXED), think.s("A key is", retries=1, **FIXED)])(join.s())
    assert found.get(timeout=30) == [says("A set is"), says("A key is")]


def test_a_retried_generation_is_another_job_of_the_same_task(installation):
    """What Celery sends again with a higher number of retries is not the job that it was."""
    first = installation.team.generate.delay("A list is", **FIXED)
    text, before = first.get(timeout=30)["text"], first.job.id
    again = installation.team.generate.s("A list is", **FIXED).apply_async(retries=1, task_id=first.id)
    assert again.id == first.id
    assert again.job.id != before
    assert again.job.result(timeout_s=30).text == text


def test_sent_by_name_from_a_project_without_headrace(installation, says):
    sent = installation.team.app.send_task(
        "headrace.generate", ("A list is",), {"model": "demo", **FIXED}, queue="headrace"
    )
    assert sent.get(timeout=30)["text"] == says("A list is")


def test_no_result_is_kept_when_nobody_wants_it(installation):
    result = installation.team.generate.apply_async(("A list is",), FIXED, ignore_result=True)
    result.job.result(timeout_s=30)
    wait_until(lambda: installation.to_relay == 0, 20)
    assert installation.team.app.backend.client.get(f"celery-task-meta-{result.id}") is None


@pytest.fixture
def eager(installation: Installation):
    """The team's tasks, run where they are called."""
    installation.team.app.conf.task_always_eager = True
    yield installation.team
    installation.team.app.conf.task_always_eager = False


def test_eager_mode_generates_in_place(eager, says):
    assert eager.generate.delay("A list is", **FIXED).get()["text"] == says("A list is")
    called = eager.generate.apply_async(("A list is",), FIXED, task_id="eager", queue="batch", countdown=100)
    assert (called.id, called.get()["text"]) == ("eager", says("A list is"))
    with pytest.raises(InvalidJob, match="max_tokens"):
        eager.generate.apply_async(("x",), {"max_tokens": 0}).get()


def test_eager_chain(eager, says):
    generate, shout = eager.generate, eager.shout
    found = chain(shout.s("a list is"), generate.s(**FIXED), generate.s(**FIXED), shout.s())().get()
    assert found == says(says("A LIST IS")).upper()


def test_what_is_wrong_is_said_where_it_is_made(installation):
    with pytest.raises(InvalidJob, match="max_tokens"):
        installation.team.generate.delay("x", max_tokens=0)
    for form, arguments in (("map", (["x"],)), ("starmap", ([("x",)],)), ("chunks", ([("x",)], 1))):
        with pytest.raises(NotImplementedError, match=rf"generate\.{form} .* use group"):
            getattr(installation.team.generate, form)(*arguments)


def test_no_log_has_a_prompt_or_an_answer(installation, says):
    secret = "The password of the lighthouse"
    found = installation.team.generate.delay(secret, **FIXED).get(timeout=30)
    installation.team.generate.delay(secret, **FIXED).get(timeout=30)
    for name in ("worker", "callbacks", "flower"):
        log = installation.log(name)
        assert secret not in log
        assert found["text"].strip() not in log
        assert json.dumps(found["text"]).strip('"') not in log
