"""What `headrace worker`, its engine process and its intake process import, imported and warm."""

import torch

from headrace.engine import Engine, EngineConfig
from headrace.workers.engine_process import main  # noqa: F401
from headrace.workers.engine_process.intake import process  # noqa: F401
from headrace.workers.engine_process.text import Tokenizer
from headrace.workers.models import resolve_model

from . import host_modules  # noqa: F401

torch.set_num_threads(1)
Tokenizer(resolve_model("demo")).chat([{"role": "user", "content": "Hello"}])
Engine(EngineConfig(model=resolve_model("demo"), dtype="float32", device="cpu", threads=1, num_pages=8))
