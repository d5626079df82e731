"""The Triton path of mixtures of experts against the references; in the interpreter where there is no GPU."""

import pytest
import torch

from headrace.kernels.moe import moe_mlp_torch, pack_experts, route_torch

from ..support.covering import covering

pytest.importorskip("triton")
from headrace.kernels.triton import moe

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

FACTOR = 1 if DEVICE == "cuda" else 4
"""Four roundings one after the other; the interpreter cuts bf16 off where a GPU rounds it."""


@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "experts", "top_k"), [(1, 1, 1), (5, 8, 2), (33, 60, 7), (0, 4, 2)])
def test_routing_is_that_of_the_reference(tokens, experts, top_k, dtype, renormalize):
    logits = torch.randn(tokens, experts, generator=torch.Generator().manual_seed(0)).to(dtype)
    logits[:, 1::3] = logits[:, :1]  # ties: lower ids first
    weights, chosen = moe.route(logits.to(DEVICE), top_k, renormalize)
    expected, ids = route_torch(logits, top_k, renormalize=renormalize)
    assert torch.equal(chosen.cpu(), ids)
    torch.testing.assert_close(weights.cpu(), expected, rtol=2e-6, atol=1e-7)


def test_nearly_impossible_experts_are_still_distinct():
    logits = torch.tensor([[0.0, -200.0, -300.0, -400.0, -torch.inf]])
    weights, chosen = moe.route(logits.to(DEVICE), 5, renormalize=True)
    assert chosen.tolist() == [[0, 1, 2, 3, 4]]
    assert weights.tolist() == [[1, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("tokens", "experts", "top_k"), [(1, 8, 2), (700, 4, 2), (50, 60, 6), (2100, 1, 1), (3, 40, 8)]
)
@pytest.mark.parametrize("skewed", [False, True])
def test_each_tile_holds_pairs_of_one_expert_in_order(tokens, experts, top_k, skewed):
    logits = torch.randn(tokens, experts, generator=torch.Generator().manual_seed(tokens))
    if skewed:
        logits[:, :top_k] += 100
    _, chosen = route_torch(logits, top_k, renormalize=True)
    plan = moe.plan_tiles(chosen.to(DEVICE), experts)
    rows, pairs = plan.launch.rows, chosen.numel()
    owners = plan.experts.cpu()
    used = int((owners >= 0).sum())
    assert (owners[used:] == -1).all()
    counts = torch.bincount(chosen.flatten().long(), minlength=experts)
    sizes = -(-counts // rows)
    assert torch.equal(owners[:used].long(), torch.arange(experts).repeat_interleave(sizes))
    order = plan.order.cpu().view(-1, rows)[:used]
    by_expert = chosen.flatten().sort(stable=True).indices.split(counts.tolist())
    for expert, mine in enumerate(by_expert):
        slots = order[owners[:used] == expert].flatten()
        assert torch.equal(slots[: len(mine)].long(), mine)
        assert (slots[len(mine) :] == pairs).all()


@pytest.mark.parametrize(
    ("dtype", "sizes"),
    covering(
        [torch.float32, torch.float16, torch.bfloat16],
        [(1, 4, 2, 64, 16), (37, 6, 3, 33, 17), (9, 20, 8, 70, 40), (150, 3, 2, 130, 72), (0, 4, 2, 8, 8)],
    ),
)
def test_experts_compute_the_weighted_sum(dtype, sizes, assert_near):
    tokens, experts, top_k, hidden, inner = sizes
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randn(tokens, hidden, generator=generator).to(dtype)
    gate_up = (torch.randn(experts, 2 * inner, hidden, generator=generator) * hidden**-0.5).to(dtype)
    down = (torch.randn(experts, hidden, inner, generator=generator) * inner**-0.5).to(dtype)
    weights, chosen = route_torch(torch.randn(tokens, experts, generator=generator), top_k, renormalize=True)
    made = moe.moe_mlp(*(tensor.to(DEVICE) for tensor in (x, gate_up, down, weights, chosen)))
    assert made.dtype == dtype
    expected = moe_mlp_torch(x.double(), gate_up.double(), down.double(), weights, chosen)
    assert_near(made.cpu(), expected, FACTOR)


@pytest.mark.usefixtures("rows_apart")
def test_a_token_gets_the_same_sum_beside_any_neighbours():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(20, 32, generator=generator).to(DEVICE)
    gate_up = torch.randn(4, 32, 32, generator=generator).to(DEVICE)
    down = torch.randn(4, 32, 16, generator=generator).to(DEVICE)
    weights, chosen = moe.route(torch.randn(20, 4, generator=generator).to(DEVICE), 2, renormalize=True)
    whole = moe.moe_mlp(x, gate_up, down, weights, chosen)
    part = moe.moe_mlp(x[7:12], gate_up, down, weights[7:12], chosen[7:12])
    assert torch.equal(whole[7:12], part)


@pytest.mark.skipif(DEVICE == "cpu", reason="the public operation takes this path on a GPU")
def test_the_public_operation_takes_the_path_of_its_device():
    x, gate_up, down = torch.randn(5, 64), torch.randn(4, 64, 64) / 8, torch.randn(4, 64, 32) / 6
    weights, chosen = route_torch(torch.randn(5, 4), 2, renormalize=True)
    layer = pack_experts(gate_up.to(DEVICE), down.to(DEVICE), rows_hint=4)
    made = layer(x.to(DEVICE), weights.to(DEVICE), chosen.to(DEVICE)).cpu()
    torch.testing.assert_close(made, moe_mlp_torch(x, gate_up, down, weights, chosen), rtol=1e-4, atol=1e-5)
