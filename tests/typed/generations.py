"""The Celery task is a Task with types of its own, to checkers too."""

from typing import Any, assert_type

from celery import chain

from headrace.celery import GenerationResult, generate

sent = generate.delay("Once upon a time", model="demo", max_tokens=64)
assert_type(sent, GenerationResult)
assert_type(generate.apply_async(("Once upon a time",), countdown=5), GenerationResult)
for chunk in sent.stream():
    assert_type(chunk.text, str)
workflow: Any = chain(generate.s("Once upon a time"), generate.si("The end").set(priority=9))
