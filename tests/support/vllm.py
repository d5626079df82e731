"""A real vLLM for tests: where it is, and how it is started small."""

from pathlib import Path

import pytest

PYTHON = Path(__file__).parents[2] / ".peers/vllm/bin/python"

FLAGS = ("--enforce-eager", "--max-model-len", "512")
"""Nothing is compiled, and the context is short: it starts in seconds."""

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
}


def python_or_skip() -> str:
    """The Python that vLLM is installed for; skips the test where it isn't."""
    if not PYTHON.exists():
        pytest.skip("vLLM is not installed: make peers PEERS=vllm")
    return str(PYTHON)
