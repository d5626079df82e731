"""The CPU's path of sampling: the same tokens and log-probabilities as the reference."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from headrace.engine import Request, SamplingParams
from headrace.engine.batch import Batch
from headrace.engine.sampling.constraint import packed
from headrace.engine.sequence import Sequence
from headrace.kernels.sample import dropped, sample, sample_torch, top_k_top_p_torch
from headrace.kernels.sample_cpu import row_sums
from headrace.kernels.structs import SampleNeeds, SamplingTable

VOCAB, EOS = 600, 7
FOREVER = 2**62

PARAMS = [
    SamplingParams(temperature=0.0),
    SamplingParams(seed=1, logprobs=0),
    SamplingParams(seed=2, temperature=0.4, top_k=20),
    SamplingParams(seed=-3, temperature=1.7, top_p=0.8, logprobs=5),
    SamplingParams(seed=4, min_p=0.05, top_k=VOCAB),
    SamplingParams(seed=5, top_k=30, top_p=0.6, min_p=0.01),
    SamplingParams(seed=6, presence_penalty=0.5, frequency_penalty=0.2, repetition_penalty=1.3, logprobs=3),
    SamplingParams(temperature=0.0, repetition_penalty=0.5, frequency_penalty=-1.0),
    SamplingParams(seed=8, logit_bias={3: 8.0, EOS: 30.0, 599: -50.0}, min_tokens=9, stop_token_ids=(3, 4)),
    SamplingParams(temperature=0.0, logit_bias={EOS: 90.0}, min_tokens=2, ignore_eos=True),
]


def table_of(sequences: list[Sequence], batch: Batch) -> SamplingTable:
    params = [sequence.request.params for sequence in sequences]
    biases = []
    for sequence, asked in zip(sequences, params, strict=True):
        ends = {*asked.stop_token_ids, *(() if asked.ignore_eos else (EOS,))} if asked.min_tokens else set()
        shortest = len(sequence.request.prompt_ids) + asked.min_tokens
        entries = [(token, value, FOREVER) for token, value in asked.logit_bias.items()]
        entries += [(token, -np.inf, shortest) for token in ends]
        biases.append(entries + [(-1, 0.0, 0)] * (8 - len(entries)))
    ids, values, until = np.array(biases).transpose(2, 0, 1)

    def column(name: str, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([getattr(asked, name) for asked in params], dtype=dtype)

    return SamplingTable(
        temperature=column("temperature", torch.float32),
        top_k=column("top_k", torch.int32),
        top_p=column("top_p", torch.float32),
        min_p=column("min_p", torch.float32),
        presence_penalty=column("presence_penalty", torch.float32),
        frequency_penalty=column("frequency_penalty", torch.float32),
        repetition_penalty=column("repetition_penalty", torch.float32),
        seed=column("seed", torch.int64),
        tokens=torch.from_numpy(batch.tokens),
        lengths=torch.from_numpy(batch.lengths),
        prompt_lengths=torch.from_numpy(batch.prompt_lengths),
        bias_ids=torch.from_numpy(ids.astype(np.int32)),
        bias_values=torch.from_numpy(values.astype(np.float32)),
        bias_until=torch.from_numpy(until.astype(np.int64)),
        logprobs=torch.tensor([-1 if asked.logprobs is None else asked.logprobs for asked in params]).int(),
    )


def some_ids(generator: torch.Generator) -> tuple[int, ...]:
    return tuple((torch.rand(VOCAB, generator=generator) < 0.2).nonzero()[:, 0].tolist())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ties", [False, True])
def test_the_cpus_path_samples_as_the_reference_does(seed, ties):
    generator = torch.Generator().manual_seed(seed)
    batch, sequences = Batch(len(PARAMS), 64, 16, torch.device("cpu")), []
    for row, params in enumerate(PARAMS):
        tokens = torch.randint(0, VOCAB, (4 + 5 * (row % 3) + seed,), generator=generator).tolist()
        prompt = tokens[: 2 + row % 2]
        sequence = Sequence(Request(str(row), prompt, params), tokens, arrival=0, limit=64, row=row)
        batch.sync(sequence, lambda _: None)
        sequences.append(sequence)
    rows = torch.randperm(len(PARAMS), generator=generator)
    logits = torch.randn(len(PARAMS), VOCAB, generator=generator) * 3
    if ties:
        logits = logits.round()
    masks = torch.from_numpy(np.stack([packed(some_ids(generator), VOCAB) for _ in range(2)]))
    which = torch.randint(-1, 2, (len(PARAMS),), generator=generator).int()
    table = replace(table_of(sequences, batch), mask_of=which, masks=masks)
    needs = SampleNeeds(logprobs=5, mask=True)
    expected = sample_torch(logits.clone(), rows, table, needs)
    made = sample(logits.clone(), rows, table, needs)
    assert made.tokens.tolist() == expected.tokens.tolist()
    assert torch.equal(made.top_ids, expected.top_ids)
    assert torch.equal(made.top_logprobs, expected.top_logprobs)
    asked = table.logprobs[rows] >= 0
    assert torch.equal(made.logprobs[asked], expected.logprobs[asked])


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_row_without_a_token_to_choose_says_so_and_leaves_its_neighbours_alone(broken):
    sequences = [
        Sequence(
            Request(str(row), [1], SamplingParams(top_p=0.9, logprobs=2)), [1], arrival=0, limit=9, row=row
        )
        for row in range(3)
    ]
    batch = Batch(3, 64, 16, torch.device("cpu"))
    for sequence in sequences:
        batch.sync(sequence, lambda _: None)
    logits = torch.randn(3, VOCAB)
    table, needs, rows = table_of(sequences, batch), SampleNeeds(logprobs=2), torch.arange(3)
    whole = sample(logits.clone(), rows, table, needs).tokens.tolist()
    logits[1, 5] = broken
    assert sample(logits, rows, table, needs).tokens.tolist() == [whole[0], -1, whole[2]]


def test_cuts_keep_what_the_definitions_keep():
    x = torch.tensor([[0.5, 0.2, 0.2, 0.07, 0.03]]).log()

    def kept(k: int, p: float, least: float) -> list[int]:
        thresholds = top_k_top_p_torch(x, torch.tensor([k]), torch.tensor([p]), torch.tensor([least]))
        return torch.nonzero(~dropped(x, thresholds)[0]).flatten().tolist()

    assert kept(0, 1.0, 0.0) == [0, 1, 2, 3, 4]
    assert kept(1, 1.0, 0.0) == [0]
    assert kept(2, 1.0, 0.0) == [0, 1, 2]  # the third ties with the second
    assert kept(9, 1.0, 0.0) == [0, 1, 2, 3, 4]
    assert kept(0, 0.4, 0.0) == [0]
    assert kept(0, 0.6, 0.0) == [0, 2]  # of those that tie the highest id
    assert kept(0, 0.8, 0.0) == [0, 1, 2]
    assert kept(0, 0.92, 0.0) == [0, 1, 2, 3]
    assert kept(3, 0.6, 0.0) == [0, 2]
    assert kept(0, 1.0, 0.3) == [0, 1, 2]
    assert kept(0, 0.6, 0.3) == [0, 2]
    assert kept(0, 0.8, 0.5) == [0]
    assert kept(0, 1e-9, 0.0) == [0]
    assert kept(0, 0.0, 0.0) == [0]


def test_needs_left_out_change_nothing_where_no_row_has_them():
    rows, vocab = 3, 50
    plain = [SamplingParams(seed=seed) for seed in range(rows)]
    batch = Batch(rows, 64, 16, torch.device("cpu"))
    sequences = [
        Sequence(Request(str(row), [1, 2], params), [1, 2, 3], arrival=0, limit=64, row=row)
        for row, params in enumerate(plain)
    ]
    for sequence in sequences:
        batch.sync(sequence, lambda _: None)
    table, order = table_of(sequences, batch), torch.arange(rows)
    logits = torch.randn(rows, vocab)
    all_done = sample(logits.clone(), order, table, SampleNeeds())
    assert torch.equal(sample(logits, order, table, SampleNeeds(False, False, False)).tokens, all_done.tokens)


def test_the_sum_of_a_row_has_the_same_bits_alone_and_among_others():
    x = torch.rand(65, 50_001)
    torch.set_num_threads(2)
    alone = row_sums(x[:1])
    for rows in (2, 3, 8, 44, 65):
        assert torch.equal(row_sums(x[:rows])[0], alone[0]), rows
