"""Model names: the built-in one, local folders, the Hugging Face Hub."""

from pathlib import Path

DEMO = "demo"
"""The name of the built-in model."""


def resolve_model(name: str) -> str:
    """What to load for a model's name: the built-in model's folder for `demo`, else the name itself."""
    return str(Path(__file__).parent / "demo_model") if name == DEMO else name


def served_name(name: str) -> str:
    """The name that producers use by default: a folder's own name, or the Hub name."""
    return Path(name).resolve().name if Path(name).is_dir() else name
