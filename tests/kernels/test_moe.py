"""Mixtures of experts on the CPU against a computation of one token at a time."""

import pytest
import torch

from headrace.kernels.moe import moe_mlp_torch, pack_experts, route


@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize(("tokens", "experts", "top_k"), [(1, 1, 1), (5, 8, 2), (33, 60, 7), (0, 4, 2)])
def test_tokens_go_to_their_most_likely_experts(tokens, experts, top_k, renormalize):
    logits = torch.randn(tokens, experts)
    weights, chosen = route(logits, top_k, renormalize=renormalize)
    probs = logits.double().softmax(-1)
    best = probs.topk(top_k)
    assert torch.equal(chosen.long(), best.indices)
    expected = best.values / best.values.sum(-1, keepdim=True) if renormalize else best.values
    torch.testing.assert_close(weights.double(), expected, rtol=1e-5, atol=1e-7)


def test_equal_experts_are_taken_by_id():
    weights, chosen = route(torch.zeros(2, 6), 3, renormalize=True)
    assert chosen.tolist() == [[0, 1, 2]] * 2
    torch.testing.assert_close(weights, torch.full((2, 3), 1 / 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("tokens", "experts", "top_k", "hidden", "inner"),
    [(1, 4, 2, 32, 16), (37, 6, 3, 33, 17), (9, 64, 8, 16, 8), (0, 4, 2, 8, 8)],
)
def test_experts_compute_the_weighted_sum(tokens, experts, top_k, hidden, inner, dtype, assert_near):
    x = torch.randn(tokens, hidden).to(dtype)
    gate_up = (torch.randn(experts, 2 * inner, hidden) * hidden**-0.5).to(dtype)
    down = (torch.randn(experts, hidden, inner) * inner**-0.5).to(dtype)
    weights, chosen = route(torch.randn(tokens, experts), top_k, renormalize=False)
    made = pack_experts(gate_up, down, rows_hint=4)(x, weights, chosen)
    assert made.dtype == dtype
    assert made.shape == (tokens, hidden)
    assert_near(made, moe_mlp_torch(x.double(), gate_up.double(), down.double(), weights, chosen))
