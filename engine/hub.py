"""Where a model's files lie: a folder here, or what is downloaded from the Hugging Face Hub."""

from pathlib import Path

from .errors import ModelError


def model_folder(model: str) -> Path:
    """Where a model's files lie; downloads a Hub name.

    Raises:
        ModelError: there is no such model.
    """
    path = Path(model)
    if path.is_dir():
        return path
    if model.endswith(".gguf"):
        raise ModelError(f"{model!r} is a GGUF file; only safetensors are supported: take that checkpoint")
    if path.exists():
        raise ModelError(f"{model!r} is a file; give the folder that holds config.json and the weights")
    if model.startswith(("/", "./", "../", "~")) or model.count("/") > 1:
        raise ModelError(f"{model!r}: there is no such folder here")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(model, allow_patterns=["*.safetensors", "*.json", "tokenizer*"]))
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as error:
        raise ModelError(
            f"{model!r} is neither a folder here nor a Hub model that can be read: {error}"
        ) from error
