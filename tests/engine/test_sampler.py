"""Each sampling parameter does what its name says, against a plain computation."""

import numpy as np
import pytest
import torch

from headrace.engine import FinishReason, Request, SamplingParams

from .conftest import _model, greedy, prompt, run

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


def test_max_tokens_ends_the_sequence(make_engine):
    tokens, reason = ends(make_engine(), greedy(3))
    assert len(tokens) == 3
    assert reason is FinishReason.LENGTH


def test_a_full_context_ends_the_sequence(make_engine):
    tokens, reason = ends(make_engine(max_context_tokens=40), greedy(1000))
    assert len(tokens) == 40 - len(PROMPT)
    assert reason is FinishReason.LENGTH
