"""Each sampling parameter does what its name says, against a plain computation."""

import numpy as np
import pytest
import torch

from headrace.engine import FinishReason, Request, SamplingParams
from headrace.kernels.sample_cpu import keep_top_p

from .conftest import VOCAB, _model, greedy, prompt, run

PROMPT = prompt(31)


def logits_after(tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits = _model("llama")(torch.tensor([tokens])).logits[0, -1].float()
    return logits.clone()


def next_tokens(make_engine, count: int, **params: object) -> list[int]:
    """First tokens of many seeds."""
    requests = [
        Request(f"s{seed}", list(PROMPT), SamplingParams(max_tokens=1, seed=seed, **params))
        for seed in range(count)
    ]
    return [tokens[0] for tokens in run(make_engine(), *requests).values()]


def test_temperature_one_draws_from_the_models_distribution(make_engine):
    draws = np.array(next_tokens(make_engine, 3000))
    probs = logits_after(list(PROMPT)).softmax(-1).numpy()
    for token in probs.argsort()[-5:]:
        deviation = np.sqrt(probs[token] * (1 - probs[token]) / len(draws))
        assert abs((draws == token).mean() - probs[token]) < 5 * deviation


def test_top_k_keeps_the_k_most_likely(make_engine):
    allowed = set(logits_after(list(PROMPT)).topk(5).indices.tolist())
    drawn = set(next_tokens(make_engine, 300, top_k=5, temperature=2.0))
    assert drawn == allowed


def test_top_k_of_one_is_greedy(make_engine):
    assert set(next_tokens(make_engine, 20, top_k=1)) == {int(logits_after(list(PROMPT)).argmax())}


def test_top_p_keeps_the_smallest_set_that_reaches_it(make_engine):
    probs = (logits_after(list(PROMPT)) / 2.0).softmax(-1)
    ordered, ids = probs.sort(descending=True)
    size = int((ordered.cumsum(0) < 0.5).sum()) + 1
    drawn = set(next_tokens(make_engine, 400, top_p=0.5, temperature=2.0))
    assert drawn <= set(ids[:size].tolist())
    assert len(drawn) > 1


@pytest.mark.parametrize("top_p", [1e-40, 0.05, 0.33, 0.5, 0.8, 0.97])
@pytest.mark.parametrize("vocab", [5, 300, 3000])
def test_tokens_equally_likely_at_the_edge_of_top_p_are_cut_as_transformers_cuts_them(vocab, top_p):
    from transformers import TopPLogitsWarper

    generator = torch.Generator().manual_seed(vocab)
    logits = torch.stack(
        [
            torch.zeros(vocab),
            torch.randint(0, 3, (vocab,), generator=generator).float(),
            torch.randn(vocab, generator=generator).bfloat16().float(),  # as such models give them
            torch.randn(vocab, generator=generator),
        ]
    )
    ours = keep_top_p(logits.clone(), torch.full((4, 1), top_p)) > -torch.inf
    theirs = TopPLogitsWarper(top_p)(None, logits.clone()) > -torch.inf
    # A sum that comes to top_p within float32's rounding may leave one token more or less.
    assert ((ours.sum(1) - theirs.sum(1)).abs() <= 1).all()
    for mine, other, row in zip(ours, theirs, logits, strict=True):
        edge = row[mine].min()
        assert mine[row > edge].all()
        assert not mine[row < edge].any()
        tied = mine[row == edge].tolist()
        assert tied == sorted(tied)
        if vocab < 16 or len(tied) == 1:  # where the sort of transformers keeps the order of equals
            assert torch.equal(mine, other)


def test_min_p_drops_what_is_much_less_likely_than_the_best(make_engine):
    probs = (logits_after(list(PROMPT)) / 2.0).softmax(-1)
    allowed = set(torch.nonzero(probs >= 0.2 * probs.max()).flatten().tolist())
    assert set(next_tokens(make_engine, 400, min_p=0.2, temperature=2.0)) <= allowed


def test_a_bias_of_a_hundred_decides(make_engine):
    assert set(next_tokens(make_engine, 5, logit_bias={42: 100.0})) == {42}


def penalised(tokens: list[int], presence: float, frequency: float, repetition: float) -> int:
    logits = logits_after(tokens)
    for token in set(tokens):
        logits[token] = logits[token] / repetition if logits[token] > 0 else logits[token] * repetition
    output = tokens[len(PROMPT) :]
    for token in set(output):
        logits[token] -= presence + frequency * output.count(token)
    return int(logits.argmax())


@pytest.mark.parametrize("penalties", [(1.5, 0.0, 1.0), (0.0, 0.7, 1.0), (0.0, 0.0, 1.8), (0.4, 0.3, 1.2)])
def test_penalties_are_those_of_the_plain_computation(make_engine, penalties):
    presence, frequency, repetition = penalties
    params = SamplingParams(
        max_tokens=16,
        temperature=0.0,
        presence_penalty=presence,
        frequency_penalty=frequency,
        repetition_penalty=repetition,
    )
    tokens = list(PROMPT)
    for _ in range(16):
        tokens.append(penalised(tokens, *penalties))
    neighbours = [Request(f"n{i}", list(prompt(20, i)), greedy()) for i in range(3)]
    outputs = run(make_engine(), Request("p", list(PROMPT), params), *neighbours)
    assert outputs["p"] == tokens[len(PROMPT) :]


def test_logprobs_are_the_models_own_whatever_the_sampling(make_engine):
    params = SamplingParams(max_tokens=6, temperature=1.3, top_k=10, seed=3, logprobs=4, presence_penalty=1.0)
    engine = make_engine()
    engine.submit(Request("l", list(PROMPT), params))
    engine.submit(Request("other", list(prompt(17)), greedy()))
    tokens = list(PROMPT)
    while engine.has_work:
        for progress in engine.step():
            if progress.id != "l":
                assert progress.logprobs == []
                continue
            (entry,) = progress.logprobs
            reference = logits_after(tokens).log_softmax(-1)
            assert entry.token_id == progress.token_ids[0]
            assert entry.logprob == pytest.approx(float(reference[entry.token_id]), abs=1e-3)
            assert [token for token, _ in entry.top] == reference.topk(4).indices.tolist()
            tokens += progress.token_ids


EXTREMES = {
    "temperature": [0.0, -0.0, 5e-324, 1e-46, 1e-44, 1e-38, 1e-9, 1e30, 1e300],
    "top_p": [5e-324, 1e-300, 1e-46, 1e-40, 1 - 1e-12],
    "top_k": [1, VOCAB - 1, VOCAB, VOCAB + 1, 2**31, 2**63 - 1, 2**63, 2**70],
    "min_p": [5e-324, 1e-46, 1e-40, 1.0],
    "repetition_penalty": [5e-324, 1e-46, 1e-40, 1e40, 1e300],
    "presence_penalty": [-1e300, 5e-324, 1e300],
    "frequency_penalty": [-1e300, -1e-45, 1e300],
    "logit_bias": [{3: 1e300}, {3: -1e300}, {3: 5e-324}, dict.fromkeys(range(VOCAB), -100.0)],
    "seed": [0, -(2**63), 2**63 - 1],
    "max_tokens": [1, 2**31, 2**70],
    "min_tokens": [-(2**70), 6, 2**70],
    "logprobs": [0, VOCAB, VOCAB + 1, 2**70],
}
BESIDE = [{}, {"top_p": 0.9}, {"top_k": 5, "min_p": 0.1}, {"temperature": 0.0, "logprobs": 1}]


@pytest.mark.parametrize("name", EXTREMES)
def test_every_number_that_is_accepted_is_computed_with_alike_on_both_ways_through_a_step(make_engine, name):
    requests = [
        Request(f"{i}.{j}", list(PROMPT), SamplingParams(**{"seed": 3, **beside, name: value}))
        for i, value in enumerate(EXTREMES[name])
        for j, beside in enumerate(BESIDE)
    ]
    neighbour = Request("neighbour", list(PROMPT), SamplingParams(max_tokens=9, seed=8, top_p=0.9))
    outputs = run(make_engine(overlap=False, max_context_tokens=40), *requests, neighbour)
    assert all(outputs[request.id] for request in requests)
    assert outputs["neighbour"] == run(make_engine(), neighbour)["neighbour"]
    assert run(make_engine(overlap=True, max_context_tokens=40), *requests, neighbour) == outputs


@pytest.mark.parametrize("overlap", [False, True], ids=["plain", "overlapped"])
def test_a_temperature_or_top_p_near_nothing_is_greedy_and_a_top_k_past_the_vocabulary_keeps_all(
    make_engine, overlap
):
    engine = make_engine(overlap=overlap)
    cold = [{"temperature": t, **beside} for t in (1e-46, 1e-44, 1e-38, 9e-6) for beside in BESIDE]
    narrow = [{"top_p": p, "seed": s} for p in (5e-324, 1e-46, 1e-40) for s in range(4)]
    requests = [
        Request(str(i), list(PROMPT), SamplingParams(max_tokens=9, **params))
        for i, params in enumerate([*cold, *narrow])
    ]
    outputs = run(engine, *requests, Request("greedy", list(PROMPT), greedy(9)))
    assert set(map(tuple, outputs.values())) == {tuple(outputs["greedy"])}
    wide = [Request(str(k), list(PROMPT), SamplingParams(max_tokens=9, top_k=k)) for k in (0, VOCAB, 2**70)]
    assert len(set(map(tuple, run(engine, *wide).values()))) == 1


def ends(engine, params: SamplingParams) -> tuple[list[int], FinishReason | None]:
    engine.submit(Request("e", list(PROMPT), params))
    tokens, reason = [], None
    while engine.has_work:
        for progress in engine.step():
            tokens += progress.token_ids
            reason = progress.finish_reason
    return tokens, reason


def test_a_stop_token_ends_the_sequence_with_itself(make_engine):
    free, _ = ends(make_engine(), greedy())
    stop = free[5]
    tokens, reason = ends(
        make_engine(), SamplingParams(max_tokens=20, temperature=0.0, stop_token_ids=(stop,))
    )
    assert tokens == free[: free.index(stop) + 1]
    assert reason is FinishReason.STOP


def test_min_tokens_holds_the_stop_tokens_back(make_engine):
    free, _ = ends(make_engine(), greedy())
    params = SamplingParams(max_tokens=20, min_tokens=8, temperature=0.0, stop_token_ids=(free[2],))
    tokens, _ = ends(make_engine(), params)
    assert len(tokens) >= 8
    assert free[2] not in tokens[:8]


@pytest.mark.parametrize("overlap", [False, True], ids=["plain", "overlapped"])
def test_min_tokens_holds_the_stop_tokens_back_wherever_a_sequence_is_resumed(make_engine, overlap):
    free, _ = ends(make_engine(), greedy())
    params = SamplingParams(
        max_tokens=9, min_tokens=9, temperature=0.0, stop_token_ids=tuple(free[:4]), ignore_eos=True
    )
    engine = make_engine(overlap=overlap)
    whole, reason = ends(engine, params)
    assert (len(whole), reason) == (9, FinishReason.LENGTH)
    assert not set(whole) & set(free[:4])
    resumed = [Request(str(at), list(PROMPT), params, output_ids=whole[:at]) for at in range(9)]
    outputs = run(engine, *resumed)
    assert [outputs[str(at)] for at in range(9)] == [whole[at:] for at in range(9)]


def test_max_tokens_ends_the_sequence(make_engine):
    tokens, reason = ends(make_engine(), greedy(3))
    assert len(tokens) == 3
    assert reason is FinishReason.LENGTH


def test_a_full_context_ends_the_sequence(make_engine):
    tokens, reason = ends(make_engine(max_context_tokens=40), greedy(1000))
    assert len(tokens) == 40 - len(PROMPT)
    assert reason is FinishReason.LENGTH


@pytest.mark.parametrize("overlap", [False, True], ids=["plain", "overlapped"])
def test_no_token_but_the_allowed_ones_is_generated_and_neighbours_are_free(make_engine, overlap):
    free, _ = ends(make_engine(), greedy())
    logits = logits_after(list(PROMPT))
    worst = tuple(logits.topk(5, largest=False).indices.tolist())
    requests = [
        Request("best", list(PROMPT), SamplingParams(max_tokens=1, temperature=0.0, allowed_token_ids=worst)),
        Request("free", list(PROMPT), greedy()),
        *(
            Request(f"{seed}", list(PROMPT), SamplingParams(seed=seed, allowed_token_ids=worst, top_p=0.9))
            for seed in range(8)
        ),
    ]
    outputs = run(make_engine(overlap=overlap, max_batch_size=6), *requests)
    assert outputs["best"] == [max(worst, key=lambda token: logits[token])]
    assert outputs["free"] == free
    drawn = [token for name, tokens in outputs.items() if name.isdigit() for token in tokens]
    assert set(drawn) <= set(worst)
    assert len(set(drawn)) > 1


def test_where_nothing_is_allowed_the_sequence_is_ended_with_the_reason(make_engine):
    params = SamplingParams(min_tokens=2, stop_token_ids=(7,), allowed_token_ids=(7,))
    engine = make_engine()
    engine.submit(Request("r", list(PROMPT), params))
    progress = engine.step()
    assert progress[0].finish_reason is FinishReason.ERROR
    assert "every token is ruled out" in progress[0].error
