"""The public names, and what importing them costs."""

import inspect
import re
import subprocess
import sys
import textwrap

import pytest

import headrace

OF_THE_DESIGN = {
    "Admin",
    "AsyncAdmin",
    "AsyncClient",
    "BrokerUnavailable",
    "Client",
    "HeadraceError",
    "IdempotencyConflict",
    "InvalidJob",
    "JobCancelled",
    "JobExpired",
    "JobFailed",
    "JobNotFound",
    "QueueFull",
    "RateLimited",
    "RecordDamaged",
    "ResultTimeout",
    "StreamReset",
    "Unauthorized",
    "UnknownModel",
    "Webhook",
}
OF_WHAT_THEY_TAKE_AND_GIVE = {
    "ApiKey",
    "AsyncJobHandle",
    "BadPolicy",
    "BadSetting",
    "CancelStatus",
    "Choice",
    "Chunk",
    "DeadLetter",
    "DeadLetterDetails",
    "Delivery",
    "DeliveryAttempt",
    "DeliveryNotFound",
    "DeliveryState",
    "Finding",
    "Job",
    "JobClass",
    "JobHandle",
    "JobPage",
    "JobResult",
    "JobState",
    "JobStatus",
    "JobsRefused",
    "Limits",
    "ModelAdapter",
    "ModelInUse",
    "ModelInfo",
    "ModelRoute",
    "PausedQueue",
    "NewApiKey",
    "QueueInfo",
    "Score",
    "StoredResponse",
    "Ranked",
    "RateLeft",
    "RatesLeft",
    "TenantPolicy",
    "TenantSecret",
    "Verdict",
    "WorkerInfo",
    "WorkerNotFound",
    "__version__",
}
WHAT_ADMIN_GIVES = {
    "ApiKey",
    "DeadLetter",
    "DeadLetterDetails",
    "Delivery",
    "DeliveryAttempt",
    "Finding",
    "JobPage",
    "ModelInfo",
    "ModelRoute",
    "PausedQueue",
    "NewApiKey",
    "QueueInfo",
    "StoredResponse",
    "RateLeft",
    "RatesLeft",
    "TenantPolicy",
    "TenantSecret",
    "WorkerInfo",
}


def run(code: str) -> str:
    """Run `code` in a fresh interpreter; what it printed."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_all_names_the_public_api() -> None:
    assert set(headrace.__all__) == OF_THE_DESIGN | OF_WHAT_THEY_TAKE_AND_GIVE
    assert headrace.__all__ == sorted(headrace.__all__)
    assert set(dir(headrace)) == set(headrace.__all__)


@pytest.mark.parametrize("name", sorted(OF_THE_DESIGN | OF_WHAT_THEY_TAKE_AND_GIVE - {"__version__"}))
def test_every_public_name_and_its_public_methods_are_documented(name: str) -> None:
    public = getattr(headrace, name)
    assert inspect.getdoc(public)
    assert public.__doc__
    for method_name, method in vars(public).items():
        if not method_name.startswith("_") and inspect.isroutine(method):
            assert inspect.getdoc(method), f"{name}.{method_name}"


@pytest.mark.parametrize("name", sorted(WHAT_ADMIN_GIVES))
def test_every_field_of_what_an_operator_is_given_is_documented(name: str) -> None:
    public = getattr(headrace, name)
    documented = set(re.findall(r"^ {8}(\w+): .", public.__doc__, re.MULTILINE))
    assert documented == public.model_fields.keys() & public.__annotations__.keys()


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Cleint'"):
        _ = headrace.Cleint
    with pytest.raises(ImportError):
        from headrace import Cleint  # noqa: F401


def test_every_error_is_in_the_tree_with_a_code_of_its_own() -> None:
    errors = [
        public
        for name in headrace.__all__
        if inspect.isclass(public := getattr(headrace, name)) and issubclass(public, Exception)
    ]
    assert all(issubclass(error, headrace.HeadraceError) for error in errors)
    assert len({error.code for error in errors}) == len(errors)


def test_importing_headrace_is_quick_and_imports_little(capsys: pytest.CaptureFixture[str]) -> None:
    measure = """
        import sys, time
        started = time.{clock}()
        import headrace
        alone = time.{clock}() - started
        heavy = {{"torch", "celery", "fastapi", "redis", "pydantic", "typer"}} & sys.modules.keys()
        from headrace import Client
        print(alone, time.{clock}() - started, sorted(heavy))
    """
    alone_s, client_s, heavy = min(
        (run(measure.format(clock="process_time")).split(" ", 2) for _ in range(3)),
        key=lambda times: float(times[0]),
    )
    with capsys.disabled():
        print(f"\nimport headrace: {float(alone_s):.3f} s CPU; with Client: {float(client_s):.3f} s CPU")
    assert heavy.strip() == "[]"
    assert float(alone_s) < 0.3


def test_a_client_that_only_enqueues_loads_nothing_of_an_operators() -> None:
    loaded = run(
        """
        import sys
        from headrace import AsyncClient, Client
        AsyncClient(), Client()
        print(sorted(name for name in sys.modules if ".operate." in name))
        """
    )
    assert loaded == "['headrace.producers.operate.models', 'headrace.producers.operate.overview']\n"


def test_enqueueing_needs_nothing_of_a_worker(redis_url: str) -> None:
    job_id = run(
        f"""
        import sys
        BLOCKED = set("torch numpy safetensors tokenizers transformers jinja2 celery kombu fastapi "
                      "structlog prometheus_client typer rich".split())
        class Blocker:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in BLOCKED:
                    raise ImportError(f"{{name}} is blocked")
        sys.meta_path.insert(0, Blocker())
        from headrace import Client
        with Client("{redis_url}", check_model=False) as client:
            job = client.enqueue("hello", model="m")
            assert client.workers() == []
            assert job.status().state == "queued"
            job.cancel()
            print(job.id)
        assert not BLOCKED & sys.modules.keys()
        """
    )
    with headrace.Client(redis_url) as client:
        assert client.job(job_id.strip()).status().state == "cancelled"
