"""Webhooks about responses and batches, as OpenAI's API sends them.

`data` has only the id of the response or batch, which the receiver then reads.
"""

import json

RESPONSE = "resp_"
"""What a response's id is made of, with the id of its job."""

INCOMPLETE = {"length": "max_output_tokens"}
"""Why a response is incomplete, by its job's finish reason."""

_OF_STATE = {"succeeded": "completed", "cancelled": "cancelled"}


def response_event(state: str, finish_reason: str = "") -> str:
    """The type of the event for a response whose job has ended so."""
    if state == "succeeded" and finish_reason in INCOMPLETE:
        return "response.incomplete"
    return f"response.{_OF_STATE.get(state, 'failed')}"


def batch_event(status: str) -> str:
    """The type of the event for a batch that has ended so."""
    return f"batch.{status}"


def event_body(event: str, event_id: str, created_at_s: int, about: str) -> str:
    """The body of an event about the object with the id `about`, as JSON."""
    return json.dumps(
        {
            "id": event_id,
            "object": "event",
            "created_at": created_at_s,
            "type": event,
            "data": {"id": about},
        },
        separators=(",", ":"),
    )


def event_id(delivery_id: str) -> str:
    """The id of the event that a delivery is of."""
    return f"evt_{delivery_id.removeprefix('msg_')}"
