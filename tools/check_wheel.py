"""Checks that a wheel holds the package, all of it and nothing else: `python tools/check_wheel.py WHEEL`."""

import sys
import zipfile
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "src" / "headrace"
DATA = (
    "schemas/scripts/*.lua",
    "schemas/scripts/lib/*.lua",
    "producers/gateway/console/page/*",
    "kernels/csrc/*",
    "workers/demo_model/*",
    "py.typed",
)
MAX_BYTES = 20 * 2**20


def problems(wheel: Path) -> list[str]:
    """What is wrong with the wheel; empty if it is fit to be published."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    found = []
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    if tops != {"headrace"}:
        found.append(f"top-level names are {sorted(tops)}, not headrace alone")
    found += [f"the source tree has no {pattern}" for pattern in DATA if not any(PACKAGE.glob(pattern))]
    have = {name for name in names if name.startswith("headrace/")}
    want = source_files()
    found += [f"missing: {name}" for name in sorted(want - have)]
    found += [f"not in the source tree: {name}" for name in sorted(have - want)]
    if wheel.stat().st_size > MAX_BYTES:
        found.append(f"larger than {MAX_BYTES:,} bytes")
    return found


def source_files() -> set[str]:
    """Every module and data file of the package, as the wheel names it."""
    folders = [PACKAGE, *(path for path in PACKAGE.iterdir() if path.is_dir())]  # rglob follows no links
    modules = {path for folder in folders for path in folder.rglob("*.py")}
    data = {path for pattern in DATA for path in PACKAGE.glob(pattern) if path.is_file()}
    return {f"headrace/{path.relative_to(PACKAGE)}" for path in modules | data}


def main() -> None:
    """Print the size and the contents by folder, or what is wrong."""
    wheel = Path(sys.argv[1])
    if found := problems(wheel):
        sys.exit(f"{wheel.name}:\n  " + "\n  ".join(found))
    size, count = wheel.stat().st_size, len(source_files())
    print(f"{wheel.name}: {size:,} bytes, {count} files, headrace alone at the top")


if __name__ == "__main__":
    main()
