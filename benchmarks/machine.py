"""What a figure has to be read with: the machine, its versions, the day. And where figures are kept."""

import json
import os
import platform
import re
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

FLAGS = ("amx_bf16", "amx_int8", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "avx_vnni", "avx2")
"""Instruction sets that decide how fast a matrix product is."""

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, object]:
    """The machine, the threads that torch uses here, the versions of what runs, and the date."""
    cpuinfo = _cpuinfo()
    facts: dict[str, object] = {
        "cpu": cpuinfo.get("model name", platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "flags": [flag for flag in FLAGS if flag in cpuinfo.get("flags", "").split()],
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "triton", "transformers", "redis", "celery")},
        "date": datetime.now(UTC).date().isoformat(),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def save(facts: dict[str, object], where: Path, what: str) -> Path:
    """Write a benchmark's facts; in a folder, to `<date>-<machine>-<what>.json`. Returns the file.

    Whoever is stopped in the middle of it leaves the file as it was.
    """
    if where.is_dir():
        about = facts["machine"]
        assert isinstance(about, dict)
        name = str(about.get("gpu") or f"{about['cpu']} {about['cores']} cores")
        slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", name.lower())).strip("-")
        where = where / f"{about['date']}-{slug}-{what}.json"
    part = where.with_suffix(".part")
    part.write_text(json.dumps(facts, indent=1, default=str) + "\n")
    return part.replace(where)


def _cpuinfo() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
