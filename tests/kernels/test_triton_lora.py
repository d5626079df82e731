"""Low-rank additions in Triton, in the interpreter where there is no GPU, against torch operations."""

import pytest
import torch

from headrace.kernels.lora import (
    FIELDS,
    MOST_PARTS,
    TILE_ROWS,
    GroupedLora,
    LoraMap,
    LoraPart,
    LoraRows,
    LoraWeight,
    add_lora,
    lora_fields,
)

pytest.importorskip("triton")
from headrace.kernels.triton import lora as triton_lora

IN, OUT = 70, 150


def adapter(ranks: dict[tuple[int, int], int], dtype, device) -> LoraMap:
    """A map with parts of these outputs and ranks."""
    parts, at = [], 0
    for (first, last), rank in ranks.items():
        weight = torch.randn(last - first, rank).to(device, dtype)
        parts.append(LoraPart(LoraWeight(weight), slice(at, at := at + rank), slice(first, last)))
    return LoraMap(LoraWeight((torch.randn(at, IN) / 8).to(device, dtype)), tuple(parts))


def exact(x, y, groups):
    """The same sums in float64."""
    for group in groups:
        rows, down = group.rows.cpu(), group.lora.down.weight.cpu().double()
        inner = x.cpu().double()[rows] @ down.T
        for part in group.lora.parts:
            y[rows[:, None], torch.arange(OUT)[part.outputs]] += (
                inner[:, part.inner] @ part.up.weight.cpu().double().T
            )
    return y


def test_both_sides_agree_on_the_table() -> None:
    assert (triton_lora.FIELDS, triton_lora.PARTS, triton_lora.ROWS) == (FIELDS, MOST_PARTS, TILE_ROWS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_adapters_are_added_to_their_own_rows_alone(dtype, device):
    torch.manual_seed(0)
    loras = [
        adapter({(0, 90): 4, (90, 120): 64, (120, OUT): 1}, dtype, device),
        adapter({(90, 120): 16}, dtype, device),
        adapter({(0, OUT): 33}, dtype, device),
    ]
    rows = [torch.arange(3, 40), torch.tensor([1, 44]), torch.tensor([50])]
    x = torch.randn(52, IN).to(device, dtype)
    y = torch.randn(52, OUT).to(device, dtype)
    groups = [LoraRows(mine.to(device), lora) for mine, lora in zip(rows, loras, strict=True)]
    expected = exact(x, y.cpu().double(), groups)
    plain, grouped = y.clone(), y.clone()
    add_lora(x, plain, groups)
    # Of two maps, the second; the first changes nothing.
    fields = [lora_fields([{"other": lora}], ("none", "other")) for lora in loras]
    made = GroupedLora.of([(mine.numpy(), each) for mine, each in zip(rows, fields, strict=True)], x.device)
    made.add(0, x, grouped)
    assert torch.equal(grouped, y)
    made.add(1, x, grouped)
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    for actual in (plain, grouped):
        torch.testing.assert_close(actual.cpu().double(), expected, rtol=tolerance, atol=10 * tolerance)
    untouched = torch.tensor(sorted(set(range(52)) - set(torch.cat(rows).tolist())))
    assert torch.equal(grouped.cpu()[untouched], y.cpu()[untouched])
    assert torch.equal(grouped.cpu()[1, :90], y.cpu()[1, :90])
