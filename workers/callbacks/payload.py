"""The body of a webhook (Standard Webhooks): what happened to which job, and when."""

import json
from datetime import UTC, datetime
from typing import Any

import structlog

from ...schemas.events import JobState
from ...schemas.job import Job, WebhookEvent
from ...schemas.record import Record
from ...schemas.webhooks.openai_events import RESPONSE, event_body, event_id, response_event

MAX_BODY_BYTES = 256 * 1024
"""Receivers limit what they read. A longer body is sent as a thin one, without the job's text, tokens and
embedding."""

_LARGE = {
    *("text", "token_ids", "logprobs", "prompt_logprobs", "embedding"),
    *("content", "reasoning", "tool_calls", "choices"),
}

log = structlog.get_logger(__name__)


def body(event: WebhookEvent, at_ms: int, job: Job, record: Record) -> str:
    """The body for an event, as JSON: `{"type", "timestamp", "data"}`.

    `data` is the job's result with its model, tenant and metadata; for a started job, what is known by then;
    for a damaged result, only the job's state.
    """
    at = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    about = {"job_id": record.job_id, "model": job.model, "tenant": job.tenant, "metadata": job.metadata}

    def written(data: dict[str, Any]) -> str:
        return json.dumps(
            {"type": event.value, "timestamp": at, "data": data}, ensure_ascii=False, separators=(",", ":")
        )

    state = JobState.RUNNING if event is WebhookEvent.STARTED else event.value.partition(".")[2]
    if event is WebhookEvent.STARTED or "result" not in record.fields:  # it may have been requeued by now
        return written(about | {"state": state})
    try:
        result = record.result()
    except (KeyError, ValueError) as error:
        log.error("result_unreadable", job=record.job_id, reason=type(error).__name__)
        return written(about | {"state": state})
    thin = about | result.model_dump(mode="json", exclude_none=True, exclude=_LARGE)
    if job.webhook is None or job.webhook.payload == "thin":
        return written(thin)
    full = written(about | result.model_dump(mode="json", exclude_none=True))
    return full if len(full.encode()) <= MAX_BODY_BYTES else written(thin | {"truncated": True})


def openai_event(event: WebhookEvent, at_ms: int, record: Record, delivery_id: str) -> tuple[str, str]:
    """The type and the body of OpenAI's event about the response whose job has ended."""
    finish_reason = ""
    if event is WebhookEvent.SUCCEEDED:
        try:
            finish_reason = record.result().finish_reason
        except (KeyError, ValueError) as error:
            log.error("result_unreadable", job=record.job_id, reason=type(error).__name__)
    name = response_event(event.value.partition(".")[2], finish_reason)
    return name, event_body(name, event_id(delivery_id), at_ms // 1000, f"{RESPONSE}{record.job_id}")
