"""Where a model's files are: in a local folder, or downloaded from the Hugging Face Hub."""

from collections.abc import Callable
from pathlib import Path

from .download import DownloadProgress, download, log_progress
from .errors import ModelError


def model_folder(model: str, report: Callable[[DownloadProgress], None] = log_progress) -> Path:
    """The folder with a model's files, which are downloaded if `model` is a Hub name.

    Args:
        model: the folder or the Hub name.
        report: is told every few seconds how far a download has come.

    Raises:
        ModelError: there is no such model, or it can't be downloaded.
    """
    path = Path(model)
    if path.is_dir():
        return path
    if model.endswith(".gguf"):
        raise ModelError(f"{model!r} is a GGUF file; only safetensors checkpoints are supported")
    if path.exists():
        raise ModelError(f"{model!r} is a file; give the folder that holds config.json and the weights")
    if model.startswith(("/", "./", "../", "~")) or model.count("/") > 1:
        raise ModelError(f"there is no folder {model!r} here")
    return download(model, report)
