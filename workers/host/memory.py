"""How much memory is left for a process that could be done without."""

from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")


def available_bytes() -> int | None:
    """What a new process may take before something must be swapped or killed; None if nothing says so."""
    known = [found for found in (_on_the_machine(), *_in_its_groups()) if found is not None]
    return min(known, default=None)


def _on_the_machine() -> int | None:
    kilobytes = _number(PROC / "meminfo", "MemAvailable:")
    return None if kilobytes is None else kilobytes * 1024


def _in_its_groups() -> list[int | None]:
    """For each control group (version 2) that this process is in: what its limit leaves."""
    lines = _text(PROC / "self" / "cgroup").splitlines()
    path = next((line.removeprefix("0::").strip("/") for line in lines if line.startswith("0::")), None)
    if path is None:
        return []
    group = CGROUPS / path
    return [_left(folder) for folder in (group, *group.parents) if folder.is_relative_to(CGROUPS)]


def _left(group: Path) -> int | None:
    limit, used = _text(group / "memory.max"), _text(group / "memory.current")
    if not limit.isdecimal() or not used.isdecimal():  # "max", or there is no such file
        return None
    # Files that have been read count as used, and make room at once.
    return int(limit) - int(used) + (_number(group / "memory.stat", "inactive_file") or 0)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _number(path: Path, name: str) -> int | None:
    for line in _text(path).splitlines():
        words = line.split()
        if words[:1] == [name]:
            return int(words[1])
    return None
