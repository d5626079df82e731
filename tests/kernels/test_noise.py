import math

import pytest
import torch

from headrace.kernels.noise import (
    argmax,
    gumbel_argmax,
    gumbel_argmax_torch,
    gumbel_noise,
    noise_bits,
)

PATHS = [gumbel_argmax, gumbel_argmax_torch]


def mix(x: int, bits: int, steps: tuple[tuple[int, int], ...], last: int) -> int:
    for shift, multiplier in steps:
        x = ((x ^ (x >> shift)) * multiplier) % (1 << bits)
    return x ^ (x >> last)


def plain_bits(seed: int, position: int, token: int) -> int:
    """The hash in unbounded integers."""
    steps64 = ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53))
    steps32 = ((16, 0x85EBCA6B), (13, 0xC2B2AE35))
    inner = mix((seed + 0x9E3779B97F4A7C15) % (1 << 64), 64, steps64, 33)
    key = mix(inner ^ position, 64, steps64, 33)
    low, high = key % (1 << 32), key >> 32
    return mix((mix(token ^ low, 32, steps32, 16) + high) % (1 << 32), 32, steps32, 16)


SEEDS = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), 12345])
POSITIONS = torch.tensor([0, 1, 5, 131072, 7, 2**40])


def test_the_hash_is_the_documented_one_for_any_64_bit_seed():
    bits = noise_bits(SEEDS, POSITIONS, torch.tensor([0, 1, 151_935, 2**31 - 1]))
    for row, seed, position in zip(bits.tolist(), SEEDS.tolist(), POSITIONS.tolist(), strict=True):
        assert row == [plain_bits(seed, position, token) for token in (0, 1, 151_935, 2**31 - 1)]


PROMISED = [1067644131, 1136417540, 1900175985]


def test_noise_does_not_change_between_releases():
    """Tokens of a job resumed on a newer worker must follow from those it has: these values are a promise."""
    assert [plain_bits(42, 10, token) for token in range(3)] == PROMISED
    assert noise_bits(torch.tensor([42]), torch.tensor([10]), torch.arange(3)).tolist() == [PROMISED]


def test_noise_is_a_function_of_its_coordinates_alone():
    whole = gumbel_noise(SEEDS, POSITIONS, 1000)
    ids = torch.tensor([[3, 999, 0]] * len(SEEDS)) + torch.arange(len(SEEDS))[:, None].clamp(max=0)
    assert torch.equal(gumbel_noise(SEEDS, POSITIONS, ids), whole[:, [3, 999, 0]])
    assert torch.equal(gumbel_noise(SEEDS[2:3], POSITIONS[2:3], torch.tensor([7, 8])), whole[2:3, 7:9])


def test_noise_has_the_gumbel_distribution_and_no_correlations():
    noise = gumbel_noise(torch.arange(20), torch.arange(20) + 3, 50_000).double()
    assert noise.isfinite().all()
    assert noise.mean() == pytest.approx(0.5772156649, abs=0.006)
    assert noise.var() == pytest.approx(math.pi**2 / 6, rel=0.01)
    uniform = torch.exp(-torch.exp(-noise)).flatten().sort().values
    steps = torch.arange(1, len(uniform) + 1) / len(uniform)
    assert (uniform - steps).abs().max() < 2 / math.sqrt(len(uniform))  # Kolmogorov-Smirnov
    centred = noise - noise.mean()
    for shifted in (centred.roll(1, 0), centred.roll(1, 1), centred.roll(16, 1)):
        assert abs((centred * shifted).mean() / centred.var()) < 0.005


@pytest.mark.parametrize("path", PATHS)
def test_tokens_are_drawn_as_often_as_their_probability_says(path):
    draws = 20_000
    logits = torch.tensor([0.0, 1.0, -torch.inf, 2.0, -3.0])
    tokens = path(logits.expand(draws, 5).contiguous(), torch.full((draws,), 9), torch.arange(draws))
    share = torch.bincount(tokens, minlength=5) / draws
    torch.testing.assert_close(share, logits.softmax(0), atol=0.012, rtol=0)
    assert share[2] == 0


@pytest.mark.parametrize(("rows", "vocab"), [(1, 1), (1, 152_001), (6, 17), (6, 16), (70, 999), (0, 5)])
def test_the_compiled_draw_equals_the_plain_one(rows, vocab):
    generator = torch.Generator().manual_seed(vocab)
    logits = torch.randn(rows, vocab, generator=generator) * 3
    logits[:, 1::3] = -torch.inf
    seeds, positions = SEEDS.repeat(12)[:rows], POSITIONS.repeat(12)[:rows] + torch.arange(rows)
    assert torch.equal(gumbel_argmax(logits, seeds, positions), gumbel_argmax_torch(logits, seeds, positions))


def test_compiled_noise_equals_the_plain_one_to_a_few_ulp():
    """A row of two columns that differ by delta flips its draw exactly where the noise differs by delta."""
    seeds, positions = torch.full((4000,), 3), torch.arange(4000)
    noise = gumbel_noise(seeds, positions, 2)
    gap = noise[:, 0] - noise[:, 1]
    for sign, token in ((1, 0), (-1, 1)):
        margin = sign * (3e-6 + 1e-6 * noise.abs().amax(1))
        logits = torch.stack((torch.zeros_like(gap), gap - margin), dim=1)
        assert (gumbel_argmax(logits, seeds, positions) == token).all()


@pytest.mark.parametrize("path", PATHS)
def test_logits_may_be_a_slice_and_a_single_finite_value_wins(path):
    padded = torch.full((3, 40), -torch.inf)
    padded[:, 33:] = 100.0  # columns past the vocabulary
    padded[0, 30], padded[1, 0], padded[2, 32] = -1e30, 5.0, 0.0
    tokens = path(padded[:, :33], torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6]))
    assert tokens.tolist() == [30, 0, 32]


@pytest.mark.parametrize("vocab", [1, 15, 16, 17, 100, 4097])
def test_argmax_is_the_lowest_id_among_the_best(vocab):
    generator = torch.Generator().manual_seed(vocab)
    logits = torch.randint(-3, 4, (33, vocab), generator=generator).float()
    expected = [row.index(max(row)) for row in logits.tolist()]
    assert argmax(logits).tolist() == expected
    assert argmax(torch.cat((logits, logits + 9), 1)[:, :vocab]).tolist() == expected
