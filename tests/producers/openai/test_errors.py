import pytest
from openai.types import shared
from tests.support.openai_types import conforms

from headrace.producers.openai.errors import error_body
from headrace.schemas import errors
from headrace.schemas.errors import HeadraceError

FAILURE = errors.JobFailed("id", "context_length", "the prompt has 90 tokens")


@pytest.mark.parametrize(
    ("error", "status", "kind", "param", "code"),
    [
        (errors.InvalidJob("top_p", "must be above 0"), 400, "invalid_request_error", "top_p", None),
        (errors.UnknownModel("x", ["secret"]), 404, "invalid_request_error", "model", "model_not_found"),
        (errors.Unauthorized("no such key"), 401, "authentication_error", None, "invalid_api_key"),
        (errors.RateLimited("t", 5, "jobs", 3.0), 429, "rate_limit_error", None, "rate_limit_exceeded"),
        (errors.QueueFull("standard:t", 9, 9, 3.0), 503, "server_error", None, "queue_full"),
        (errors.JobNotFound("id"), 404, "invalid_request_error", None, "job_not_found"),
        (errors.IdempotencyConflict("k", "id"), 409, "invalid_request_error", None, "idempotency_conflict"),
        (FAILURE, 400, "invalid_request_error", "messages", "context_length_exceeded"),
        (errors.JobFailed("id", "crashed", "secret"), 500, "server_error", None, "crashed"),
        (errors.JobExpired("id"), 504, "server_error", None, "job_expired"),
        (errors.BrokerUnavailable("redis://secret"), 503, "server_error", None, "broker_unavailable"),
        (errors.RecordDamaged("secret"), 500, "server_error", None, "record_damaged"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, HeadraceError) else "",
)
def test_an_error_is_told_as_openai_would(
    error: HeadraceError, status: int, kind: str, param: str | None, code: str | None
) -> None:
    found, body = error_body(error)
    told = conforms(shared.ErrorObject, body["error"])
    assert (found, told.type, told.param, told.code) == (status, kind, param, code)
    assert "secret" not in told.message
