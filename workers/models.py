"""Model names: the built-in one, local folders, the Hugging Face Hub."""

from pathlib import Path


class NotAFile(ValueError):
    """Something in a model's folder is no file."""


DEMO = "demo"
"""The name of the built-in model."""


def resolve_model(name: str) -> str:
    """What to load for a model's name: the built-in model's folder for `demo`, else the name itself."""
    return str(Path(__file__).parent / "demo_model") if name == DEMO else name


def check_files(folder: str) -> None:
    """Refuse a folder in which something is no file: whoever reads a pipe waits without end.

    Raises:
        NotAFile: naming the first.
    """
    for path in sorted(Path(folder).iterdir()) if Path(folder).is_dir() else ():
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise NotAFile(f"{path} is no file that can be read, but a pipe, socket or device")


def served_name(name: str) -> str:
    """The name that producers use by default: a folder's own name, or the Hub name."""
    return Path(name).resolve().name if Path(name).is_dir() else name
