"""The Triton path of sampling against the reference; in the interpreter where there is no GPU."""

import dataclasses

import numpy as np
import pytest
import torch

from headrace.engine.sampling.constraint import packed
from headrace.kernels.noise import gumbel_argmax_torch, gumbel_noise
from headrace.kernels.sample import (
    SampledTensors,
    SampleNeeds,
    SamplingTable,
    Thresholds,
    _bias,
    _penalise,
    dropped,
    sample,
    sample_torch,
    top_k_top_p_torch,
)

from ..support.covering import covering

pytest.importorskip("triton")
from headrace.kernels.triton import sampling as triton_sampling
from headrace.kernels.triton import top_k_top_p as triton_top_k_top_p

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FOREVER = 2**62


@pytest.fixture(autouse=True)
def quiet_infinities():
    """The interpreter computes in numpy, which warns of infinities and of the hash's wrap-around."""
    with np.errstate(all="ignore"):
        yield


def table(
    rows: int, *, history: int = 12, biases: int = 3, vocab: int = 100, **columns: list
) -> SamplingTable:
    """Neutral rows, but for the columns given."""
    generator = torch.Generator().manual_seed(rows)
    fields: dict[str, torch.Tensor] = {
        "temperature": torch.ones(rows),
        "top_k": torch.zeros(rows, dtype=torch.int32),
        "top_p": torch.ones(rows),
        "min_p": torch.zeros(rows),
        "presence_penalty": torch.zeros(rows),
        "frequency_penalty": torch.zeros(rows),
        "repetition_penalty": torch.ones(rows),
        "seed": torch.randint(-(2**62), 2**62, (rows,), generator=generator),
        "tokens": torch.randint(0, vocab, (rows, history), dtype=torch.int32, generator=generator),
        "lengths": torch.randint(1, history + 1, (rows,), generator=generator),
        "prompt_lengths": torch.ones(rows, dtype=torch.int64),
        "bias_ids": torch.full((rows, biases), -1, dtype=torch.int32),
        "bias_values": torch.zeros(rows, biases),
        "bias_until": torch.full((rows, biases), FOREVER),
        "logprobs": torch.full((rows,), -1, dtype=torch.int32),
    }
    for name, values in columns.items():
        fields[name] = torch.as_tensor(values, dtype=fields[name].dtype)
    return SamplingTable(**fields)


def here(columns: SamplingTable) -> SamplingTable:
    """The same table on the tested device; what is expected is computed on the CPU."""
    named = {field.name: getattr(columns, field.name) for field in dataclasses.fields(SamplingTable)}
    return SamplingTable(**{name: None if x is None else x.to(DEVICE) for name, x in named.items()})


def logits_of(rows: int, vocab: int, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def both(logits: torch.Tensor, rows: torch.Tensor, columns: SamplingTable, needs: SampleNeeds):
    return drawn(logits, rows, columns, needs), sample_torch(logits.clone(), rows, columns, needs)


def drawn(
    logits: torch.Tensor, rows: torch.Tensor, columns: SamplingTable, needs: SampleNeeds
) -> SampledTensors:
    """The Triton path's tokens, as CPU tensors."""
    wide = torch.nn.functional.pad(logits, (0, 5), value=1e30).to(DEVICE)  # columns that would win if read
    made = triton_sampling.sample(wide[:, : logits.shape[1]], rows.to(DEVICE), here(columns), needs)
    parts = (made.tokens, made.logprobs, made.top_ids, made.top_logprobs)
    return SampledTensors(*(None if part is None else part.cpu() for part in parts))


def top_k_top_p(logits: torch.Tensor, columns: SamplingTable) -> Thresholds:
    rows = torch.arange(len(logits), device=DEVICE)
    thresholds = triton_top_k_top_p.top_k_top_p(logits.to(DEVICE), rows, here(columns))
    return Thresholds(thresholds.least.cpu(), thresholds.first.cpu())


def kept_by(columns: SamplingTable, scaled: torch.Tensor) -> torch.Tensor:
    """What the reference keeps."""
    return ~dropped(scaled, top_k_top_p_torch(scaled, columns.top_k, columns.top_p, columns.min_p))


@pytest.mark.parametrize(("rows", "vocab"), [(1, 1), (3, 17), (6, 4096), (5, 9001)])
def test_the_draw_is_that_of_the_plain_noise(rows, vocab):
    columns = table(rows, vocab=vocab)
    logits = logits_of(rows, vocab)
    logits[:, 1::3] = -torch.inf
    made, plain = both(logits, torch.arange(rows), columns, SampleNeeds(False, False, False))
    assert torch.equal(made.tokens, plain.tokens)
    assert torch.equal(made.tokens, gumbel_argmax_torch(logits, columns.seed, columns.lengths))
    assert made.logprobs is None


def test_the_noise_is_that_of_the_reference_to_a_few_ulp():
    """A row of two columns that differ by delta flips its draw exactly where the noise differs by delta."""
    count = 60
    columns = table(count)
    noise = gumbel_noise(columns.seed, columns.lengths, 2)
    gap = noise[:, 0] - noise[:, 1]
    for sign, token in ((1, 0), (-1, 1)):
        margin = sign * (3e-6 + 1e-6 * noise.abs().amax(1))
        logits = torch.stack((torch.zeros_like(gap), gap - margin), dim=1)
        needs = SampleNeeds(False, False, False)
        made = drawn(logits, torch.arange(count), columns, needs)
        assert (made.tokens == token).all()


def assert_threshold(x: torch.Tensor, threshold: float, k: int, p: float, least: float) -> None:
    """The kept are those of the definition, in float64; 1e-5 of the mass may be rounded either way."""
    x = x.double()
    kept = x >= threshold
    if 0 < k < len(x):
        assert (x > threshold).sum() < k
        x = x.where(x >= x.topk(k).values[-1], -torch.inf)
    mass = x.softmax(0)
    floor = x.max() + np.log(least) if least else -torch.inf
    if p < 1 and threshold > floor + 1e-5:
        assert mass[x > threshold].sum() < p + 1e-5
    if (dropped := x[~kept & (x > -torch.inf)]).numel():  # by top-p or min-p, as top-k's are masked by now
        assert mass[x > dropped.max()].sum() >= p - 1e-5 or dropped.max() < floor + 1e-5


LIMITS = [
    (1, 1.0, 0.0),
    (7, 1.0, 0.0),
    (3000, 1.0, 0.0),
    (0, 0.9, 0.0),
    (0, 0.999, 0.0),
    (0, 1e-6, 0.0),
    (50, 0.5, 0.0),
    (4000, 0.95, 0.0),
    (0, 1.0, 0.1),
    (0, 1.0, 1.0),
    (40, 0.9, 0.05),
    (10**6, 0.9, 0.0),
    (0, 1.0, 0.0),
]


@pytest.mark.parametrize(("vocab", "scale"), [(1, 3.0), (50, 3.0), (9001, 3.0), (9001, 0.01)])
def test_cuts_are_those_of_a_sort(vocab, scale):
    ks, ps, least = zip(*LIMITS, strict=True)
    temperature = [0.5 + 0.25 * (i % 5) for i in range(len(LIMITS))]
    columns = table(len(LIMITS), top_k=ks, top_p=ps, min_p=least, temperature=temperature)
    logits = logits_of(len(LIMITS), vocab, scale=scale)
    thresholds = top_k_top_p(logits, columns)
    scaled = logits / columns.temperature[:, None]
    for x, threshold, limits in zip(scaled, thresholds.least.tolist(), LIMITS, strict=True):
        assert_threshold(x, threshold, *limits)
    exact = [i for i, (k, p, least) in enumerate(LIMITS) if p == 1 and not least]
    assert torch.equal(~dropped(scaled, thresholds)[exact], kept_by(columns, scaled)[exact])


def test_cuts_bear_ties_outliers_and_forbidden_tokens():
    vocab = 5000
    x = logits_of(6, vocab).contiguous()
    x[0] = x[0].round()  # many ties at every value
    x[1, :] = 2.5
    x[2, 7], x[2, 8] = -3e38, 3e38
    x[3, 5:] = -torch.inf
    x[4] = -torch.exp(torch.linspace(-80, 80, vocab))
    x[5, 1:] = -torch.inf
    for k in (1, 4999):
        columns = table(6, top_k=[k] * 6)
        allowed = x > -torch.inf
        assert torch.equal(~dropped(x, top_k_top_p(x, columns)) & allowed, kept_by(columns, x) & allowed)
    columns = table(6, top_p=[0.7] * 6)
    thresholds = top_k_top_p(x, columns)
    for row, threshold in zip(x, thresholds.least.tolist(), strict=True):
        assert_threshold(row, threshold, 0, 0.7, 0.0)
    assert (~dropped(x, thresholds)).any(1).all()


@pytest.mark.parametrize("vocab", [6, 5000, 13_000])
def test_tokens_that_tie_at_the_edge_of_top_p_are_cut_by_their_ids(vocab):
    ps = [0.03, 0.21, 0.5, 0.77, 0.97, 1e-30, 0.0]
    x = torch.randint(0, 3, (len(ps), vocab), generator=torch.Generator().manual_seed(vocab)).float()
    x[0] = 0.0
    x[3, 5:] = -torch.inf
    columns = table(len(ps), top_p=ps, min_p=[0, 0, 0.2, 0, 0, 0, 0], top_k=[0, vocab // 2, 0, 0, 0, 0, 0])
    kept, expected = ~dropped(x, top_k_top_p(x, columns)), kept_by(columns, x)
    # Sums of thousands of probabilities are rounded in another order: a tie more or less.
    assert ((kept.sum(1) - expected.sum(1)).abs() <= vocab // 1000).all()
    for row, mine in enumerate(kept):
        edge = x[row][mine].min()
        tied = mine[x[row] == edge]
        assert mine[x[row] > edge].all()
        assert tied.tolist() == sorted(tied.tolist())  # none is kept before one that is not


def test_greedy_rows_and_rows_of_every_kind_share_a_batch():
    vocab = 2311
    columns = table(
        7,
        vocab=vocab,
        temperature=[0, 1, 0.3, 2, 1, 0, 1],
        top_k=[3, 0, 20, 0, 5, 0, 1],
        top_p=[0.1, 1, 0.9, 0.5, 1, 1, 1],
        min_p=[0.5, 0, 0, 0, 0.2, 0, 0],
        presence_penalty=[0, 0, 0.5, 0, 0, 1.5, 0],
        frequency_penalty=[0, 0.25, 0, 0, 0, 0.5, 0],
        repetition_penalty=[1, 1, 1, 1.3, 1, 0.7, 1],
    )
    order = torch.tensor([6, 2, 0, 5, 1, 4, 3, 2])
    made, plain = both(logits_of(8, vocab), order, columns, SampleNeeds())
    assert torch.equal(made.tokens, plain.tokens)
    alone, _ = both(logits_of(8, vocab)[3:4], order[3:4], columns, SampleNeeds())
    assert alone.tokens == made.tokens[3]


def test_penalties_and_bias_change_logits_as_the_reference_does():
    vocab, history = 40, 2500
    columns = table(
        5,
        vocab=vocab,
        history=history,
        lengths=[2500, 1, 1030, 7, 2000],
        prompt_lengths=[1200, 1, 3, 7, 10],
        presence_penalty=[0.5, 1, 0, 0, 0],
        frequency_penalty=[0.01, 0, 0.3, 0, 0],
        repetition_penalty=[1.2, 1, 1, 3.0, 1],
        temperature=[0] * 5,
        bias_ids=[[3, -1, 3], [39, 0, -1], [-1, -1, -1], [5, 6, 7], [0, 1, 2]],
        bias_values=[[1.5, 9, -1], [-torch.inf, 2, 9], [9, 9, 9], [1, 2, 3], [-torch.inf, -1, 1]],
        bias_until=[[FOREVER, 1, FOREVER], [2, FOREVER, 1], [0, 0, 0], [7, 8, FOREVER], [2000, 2001, 2002]],
    )
    rows = torch.arange(5)
    logits = logits_of(5, vocab)
    changed = logits.clone().to(DEVICE)
    triton_sampling._penalise(changed, rows.to(DEVICE), here(columns))
    triton_sampling._bias(changed, rows.to(DEVICE), here(columns))
    expected = _bias(_penalise(logits, rows, columns), rows, columns)
    torch.testing.assert_close(changed.cpu(), expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("vocab", [5, 700, 9001])
def test_log_probabilities_are_those_of_the_plain_logits(vocab):
    wanted = [0, -1, 3, 20, 2000]
    columns = table(
        5, vocab=vocab, logprobs=wanted, presence_penalty=[1.0] * 5, top_k=[2] * 5, temperature=[0.7] * 5
    )
    logits = logits_of(5, vocab)
    logits[3] = logits[3].round()  # ties: lower ids first
    made, plain = both(logits, torch.arange(5), columns, SampleNeeds(logprobs=2000))
    assert torch.equal(made.tokens, plain.tokens)
    torch.testing.assert_close(made.logprobs, plain.logprobs, rtol=2e-6, atol=5e-6)
    assert torch.equal(made.top_ids, plain.top_ids)
    torch.testing.assert_close(made.top_logprobs, plain.top_logprobs, rtol=2e-6, atol=5e-6)
    assert torch.equal((made.top_ids >= 0).sum(1), torch.tensor([0, 0, 3, 20, 2000]).clamp(max=vocab))


def test_no_rows_are_no_work():
    made = drawn(logits_of(0, 50), torch.arange(0), table(1), SampleNeeds(logprobs=2))
    assert made.tokens.shape == (0,)
    assert made.top_ids.shape == (0, 2)


@pytest.mark.parametrize(
    ("vocab", "limits"),
    covering([50, 4500], [{}, {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}, {"temperature": 0}]),
)
def test_rows_of_logits_that_are_no_numbers_have_no_token_and_touch_no_other(vocab, limits):
    logits = logits_of(6, vocab)
    whole = logits.clone()
    logits[0, 7], logits[2, 3], logits[3], logits[4] = torch.nan, torch.inf, -torch.inf, torch.nan
    columns = table(6, vocab=vocab, logprobs=[2] * 6, **{name: [x] * 6 for name, x in limits.items()})
    needs = SampleNeeds(logprobs=2)
    made, plain = both(logits, torch.arange(6), columns, needs)
    assert [int(token) >= 0 for token in made.tokens] == [False, True, False, False, False, True]
    assert torch.equal(made.tokens, plain.tokens)
    alone = drawn(whole, torch.arange(6), columns, needs)
    for row in (1, 5):
        assert made.tokens[row] == alone.tokens[row]
        assert torch.equal(made.top_logprobs[row], alone.top_logprobs[row])


def test_the_public_operation_takes_the_path_of_its_device():
    columns, rows = table(3, vocab=90, top_k=[4, 0, 2]), torch.arange(3)
    logits = logits_of(3, 90)
    made = sample(logits.clone().to(DEVICE), rows.to(DEVICE), here(columns), SampleNeeds(logprobs=1))
    assert torch.equal(made.tokens.cpu(), sample_torch(logits, rows, columns, SampleNeeds(logprobs=1)).tokens)


def test_what_a_mask_rules_out_is_never_drawn_and_its_neighbours_are_not_touched():
    vocab = 9001
    masks = torch.from_numpy(np.stack([packed((3, 8999), vocab), packed((4096,), vocab)]))
    asked = {"temperature": [1.0, 1.0, 0.0, 1.0], "logprobs": [2, -1, 0, 1]}
    columns = dataclasses.replace(
        table(4, vocab=vocab, **asked), mask_of=torch.tensor([0, -1, 1, -1]).int(), masks=masks
    )
    logits, rows = logits_of(4, vocab), torch.arange(4)
    made, plain = both(logits, rows, columns, SampleNeeds(False, False, True, logprobs=2, mask=True))
    assert torch.equal(made.tokens, plain.tokens)
    assert made.tokens[0] in (3, 8999)
    assert made.tokens[2] == 4096
    free = sample_torch(logits.clone(), rows, columns, SampleNeeds(False, False, True, logprobs=2))
    assert made.tokens[[1, 3]].tolist() == free.tokens[[1, 3]].tolist()
    assert torch.equal(made.top_ids, free.top_ids)  # log-probabilities are those of the plain logits
