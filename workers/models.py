"""Model names: the built-in one, local folders, the Hugging Face Hub."""

from pathlib import Path

from ..schemas.errors import BadSetting
from ..schemas.keys import is_model_name

DEMO = "demo"
"""The name of the built-in model."""


def resolve_model(name: str) -> str:
    """What to load for a model's name: the built-in model's folder for `demo`, otherwise the name itself."""
    return str(Path(__file__).parent / "demo_model") if name == DEMO else name


def check_files(folder: str) -> None:
    """Refuse a folder that contains something like a pipe, on which a reader would wait forever.

    Raises:
        BadSetting: the message names the first.
    """
    for path in sorted(Path(folder).iterdir()) if Path(folder).is_dir() else ():
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise BadSetting(f"model: {path} is not a regular file but a pipe, socket or device; remove it")


def served_name(name: str) -> str:
    """The default name under which producers ask for a model: its folder's own name, or its Hub name."""
    return Path(name).resolve().name if Path(name).is_dir() else name


def name_to_serve(model: str, served: str | None) -> str:
    """The name under which producers ask for a model.

    Args:
        model: what is served.
        served: the name that the operator gave it, if any.

    Raises:
        BadSetting: producers can't use the name, or the model is a path that doesn't exist.
    """
    name = served or served_name(model)
    if not served and model.startswith(("/", ".", "~")) and not Path(model).exists():
        raise BadSetting(f"model: {model!r} does not exist; give an existing folder or a model's name")
    if not is_model_name(name):
        setting, way_out = ("served_name", "give another") if served else ("model", "give it a served_name")
        raise BadSetting(
            f"{setting}: no client can enqueue to {name!r}; a model's name is 1 to 128 letters, digits or "
            f"_ . / -, beginning with a letter or digit: {way_out}"
        )
    return name
