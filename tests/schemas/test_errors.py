"""Errors travel between processes and say the same on the other side."""

import json
import pickle

import pytest

from headrace.schemas import errors

EXAMPLES = [
    errors.HeadraceError("something"),
    errors.BadSetting("setting redis_url = 'x': is not a Redis URL"),
    errors.InvalidJob("max_tokens", "must be above 0"),
    errors.UnknownModel("m", ["demo"]),
    errors.QueueFull("standard:t of m", 3, 300, 7.5),
    errors.RateLimited("t", 60, "requests a minute of m", 12.0),
    errors.Unauthorized("no key"),
    errors.IdempotencyConflict("key", "job"),
    errors.JobsRefused([errors.InvalidJob("prompt", "is missing")]),
    errors.JobNotFound("job"),
    errors.WorkerNotFound("worker-", ["worker-1", "worker-2"]),
    errors.ModelInUse("m", "2 of its workers live"),
    errors.DeliveryNotFound("msg_1"),
    errors.BadPolicy("weight = 0: must be above 0"),
    errors.JobFailed("job", "crashed", "its worker died"),
    errors.JobCancelled("job"),
    errors.JobExpired("job"),
    errors.StreamReset("job", 7, 5),
    errors.RecordDamaged("job"),
    errors.ResultTimeout("job", 1.5),
    errors.BrokerUnavailable("gone"),
]


def test_every_error_has_an_example_here():
    leaves = {
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)
    }
    assert {type(error) for error in EXAMPLES} == {
        kind for kind in leaves if not kind.__name__.startswith("_")
    }


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_is_the_same_after_a_pickle(error):
    twin = pickle.loads(pickle.dumps(error))
    assert (type(twin), str(twin), twin.code) == (type(error), str(error), error.code)


@pytest.mark.parametrize("error", EXAMPLES[10:19], ids=lambda error: type(error).__name__)
def test_an_error_of_a_job_is_made_again_from_json_as_celery_does(error):
    twin = type(error)(*json.loads(json.dumps(error.args)))
    assert str(twin) == str(error)
