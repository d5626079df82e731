"""Where a model's files are: in a local folder, or downloaded from the Hugging Face Hub."""

from pathlib import Path

from .errors import ModelError


def model_folder(model: str) -> Path:
    """The folder with a model's files, which are downloaded if `model` is a Hub name.

    Raises:
        ModelError: there is no such model.
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
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(model, allow_patterns=["*.safetensors", "*.json", "tokenizer*"]))
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as error:
        raise ModelError(
            f"{model!r} is neither a local folder nor a Hub model that can be read: {error}"
        ) from error
