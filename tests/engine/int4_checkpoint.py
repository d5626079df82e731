"""Small checkpoints in the layouts that AutoAWQ and GPTQModel write, and what transformers makes of them."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .conftest import NEW_TOKENS, _model

GROUP = 32
AWQ = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": False}
_AWQ_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)


class Quantised:
    """A copy of a model whose linear maps are rounded to four bits, and its checkpoint.

    Args:
        model: of transformers, or a family of conftest's.
        settings: config.json's quantization_config.
        chosen: which linear maps are quantised, by name.
        groups: the group of each of so many inputs of a map, by its name.
    """

    def __init__(
        self,
        model: str | nn.Module,
        settings: dict[str, object],
        *,
        chosen: Callable[[str], bool] = lambda name: name != "lm_head",
        groups: Callable[[str, int], Tensor] = lambda _, inputs: torch.arange(inputs) // GROUP,
    ) -> None:
        self.model = copy.deepcopy(_model(model) if isinstance(model, str) else model)
        self._settings = settings
        self._tensors: dict[str, Tensor] = {}
        for name, module in self.model.named_modules():
            if isinstance(module, nn.Linear) and chosen(name):
                self._round(name, module, groups(name, module.in_features))

    def _round(self, name: str, module: nn.Linear, group: Tensor) -> None:
        module.weight.data, stored = round_to_four_bits(module.weight.detach(), group, self._settings)
        self._tensors |= {f"{name}.{kind}": tensor for kind, tensor in stored.items()}

    def save(self, folder: Path) -> Path:
        """Write the checkpoint."""
        self.model.save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"quantization_config": self._settings}))
        rounded = {name.rpartition(".")[0] for name in self._tensors}
        floats = {
            name: tensor
            for name, tensor in load_file(folder / "model.safetensors").items()
            if not (name.endswith(".weight") and name.removesuffix(".weight") in rounded)
        }
        save_file(floats | self._tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    def expected(self, prompt_ids: tuple[int, ...]) -> list[int]:
        """transformers' greedy continuation, from the rounded weights as floats."""
        ids = torch.tensor([prompt_ids])
        with torch.inference_mode():
            out = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False
            )
        return out[0, len(prompt_ids) :].tolist()


def round_to_four_bits(
    weight: Tensor, group: Tensor, settings: dict[str, object]
) -> tuple[Tensor, dict[str, Tensor]]:
    """A weight [out, in] rounded by the group of each input, and the tensors that say as much."""
    weight = weight.t()
    count, outputs = int(group.max()) + 1, weight.shape[1]
    index = group[:, None].expand_as(weight)
    low, high = (
        torch.zeros(count, outputs).scatter_reduce_(0, index, weight, end) for end in ("amin", "amax")
    )
    scales = ((high - low) / 15).half()
    zeros = (-low / scales.float()).round().clamp(1, 15).int()
    q = ((weight / scales.float()[group]).round().int() + zeros[group]).clamp(0, 15)
    stored = {"scales": scales}
    if settings["quant_method"] == "awq":
        stored |= {"qweight": _awq_words(q), "qzeros": _awq_words(zeros)}
    else:
        first = settings.get("checkpoint_format") != "gptq_v2"
        stored |= {"qweight": _gptq_words(q.t()).t(), "qzeros": _gptq_words(zeros - int(first))}
        stored["g_idx"] = group.int()
    rounded = ((q - zeros[group]) * scales.float()[group]).t()
    return rounded.contiguous(), {kind: tensor.contiguous() for kind, tensor in stored.items()}


def _awq_words(values: Tensor) -> Tensor:
    """Eight columns a word, in AWQ's order."""
    words = torch.zeros(values.shape[0], values.shape[1] // 8, dtype=torch.int32)
    for place, column in enumerate(_AWQ_COLUMNS):
        words |= values[:, column::8].int() << (4 * place)
    return words


def _gptq_words(values: Tensor) -> Tensor:
    """Eight columns a word, in their own order."""
    words = torch.zeros(values.shape[0], values.shape[1] // 8, dtype=torch.int32)
    for place in range(8):
        words |= values[:, place::8].int() << (4 * place)
    return words
