"""Scores of given tokens, on every path, against the reference."""

import numpy as np
import pytest
import torch

from headrace.kernels.score import score, score_torch


def _triton(logits, tokens, wanted, most):
    pytest.importorskip("triton")
    from headrace.kernels.triton.score import score as score_triton

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with np.errstate(all="ignore"):  # the interpreter computes in numpy, which warns of infinities
        made = score_triton(*(part.to(device) for part in (logits, tokens, wanted)), most)
    return type(made)(*(part.cpu() for part in (made.tokens, made.logprobs, made.top_ids, made.top_logprobs)))


@pytest.mark.parametrize("path", [score, _triton], ids=["cpu", "triton"])
@pytest.mark.parametrize("vocab", [3, 1000, 5000])
def test_scores_are_those_of_the_reference(path, vocab):
    torch.manual_seed(vocab)
    logits = torch.randn(5, vocab) * 4
    logits[1, : vocab // 2] = float("-inf")
    logits[2] = logits[2].round()  # ties, of which the lower ids come first
    tokens = torch.tensor([0, 0, 1, 2, vocab - 1])
    wanted = torch.tensor([0, 2, 20, 1, 7], dtype=torch.int32)
    most = min(20, vocab)
    made, plain = path(logits.clone(), tokens, wanted, most), score_torch(logits, tokens, wanted, most)
    torch.testing.assert_close(made.logprobs, plain.logprobs, rtol=2e-6, atol=5e-6)
    assert torch.equal(made.top_ids, plain.top_ids)
    torch.testing.assert_close(made.top_logprobs, plain.top_logprobs, rtol=2e-6, atol=5e-6)


def test_a_row_in_triton_has_the_same_bits_alone_and_among_others():
    torch.manual_seed(0)
    logits, tokens = torch.randn(9, 9000) * 4, torch.arange(9)
    logits[0, :4096] = float("-inf")  # a whole tile of the first row
    logits[1, 7] = float("inf")
    wanted = torch.full((9,), 3, dtype=torch.int32)
    all_rows = _triton(logits, tokens, wanted, 3)
    assert all_rows.logprobs[0] == float("-inf")
    assert all_rows.logprobs[1] == float("-inf")
    for row in range(2, 9):
        alone = _triton(*(part[row : row + 1] for part in (logits, tokens, wanted)), 3)
        assert alone.logprobs[0] == all_rows.logprobs[row]
        assert torch.equal(alone.top_logprobs[0], all_rows.top_logprobs[row])
