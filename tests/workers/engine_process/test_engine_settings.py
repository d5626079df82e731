"""What a worker is told about its engine reaches the engine."""

from dataclasses import fields

from headrace.engine import EngineConfig
from headrace.workers.engine_process.main import _engine_config
from headrace.workers.settings import WorkerSettings
from headrace.workers.supervision.pipe import LaunchEngine

GIVEN = {
    "device": "cpu",
    "dtype": "float32",
    "quantization": "int8",
    "page_size": 32,
    "num_pages": 77,
    "kv_memory_bytes": 1 << 30,
    "kv_dtype": "fp8",
    "deterministic": True,
    "max_batch_size": 9,
    "max_step_tokens": 300,
    "max_context_tokens": 900,
    "prefix_cache": False,
    "cuda_graphs": False,
    "gpu_reserve_bytes": 1 << 20,
    "max_adapters": 3,
    "adapter_memory_bytes": 5 << 20,
}


def test_every_setting_of_an_engine_reaches_it():
    launch = LaunchEngine(worker_id="w", index=0, threads=3, grace_s=1.0, settings="")
    config = _engine_config(WorkerSettings(**GIVEN, token_time_ms=50.0), launch, "folder")
    assert {name: getattr(config, name) for name in GIVEN} == GIVEN
    assert (config.model, config.threads, config.token_time_objective_s) == ("folder", 3, 0.05)


def test_every_setting_of_the_same_name_is_compared():
    shared = {field.name for field in fields(EngineConfig)} & set(WorkerSettings.model_fields)
    assert shared - {"model", "threads"} == set(GIVEN)
