"""The models that the engine computes, and how their checkpoints are read."""

from .config import ModelConfig, load_config
from .decoder import Decoder
from .source import read_configs
from .weights import load_decoder

__all__ = ["Decoder", "ModelConfig", "load_config", "load_decoder", "read_configs"]
