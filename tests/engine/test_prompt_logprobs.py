"""A prompt's log-probabilities are transformers' own, however the prompt is computed."""

import pytest
import torch

from headrace.engine import FinishReason, Request, RequestError, SamplingParams
from headrace.engine.scheduler import MOST_SCORED

from .conftest import FAMILIES, NEW_TOKENS, VOCAB, _model, expected, greedy, prompt

TOP = 3
BOTH = pytest.mark.parametrize("overlap", [False, True], ids=["plain", "overlapped"])


def asking(name, prompt_ids, top=TOP, max_tokens=NEW_TOKENS, **more):
    return Request(name, list(prompt_ids), greedy(max_tokens), prompt_logprobs=top, **more)


def run(engine, *requests):
    """Each request's new tokens, its prompt's log-probabilities and how it ended."""
    found = {request.id: ([], [], []) for request in requests}
    for request in requests:
        engine.submit(request)
    while engine.has_work:
        for progress in engine.step():
            tokens, scores, ends = found[progress.id]
            tokens += progress.token_ids
            scores += progress.prompt_logprobs
            ends += [progress.finish_reason] if progress.finish_reason else []
        engine.check()
    return found


def assert_transformers(family, prompt_ids, scores, top=TOP, first=1):
    with torch.inference_mode():
        logprobs = _model(family)(torch.tensor([prompt_ids])).logits[0].float().log_softmax(-1)
    assert [entry.token_id for entry in scores] == list(prompt_ids[first:])
    for place, entry in enumerate(scores, first - 1):
        here = logprobs[place]
        assert entry.logprob == pytest.approx(float(here[entry.token_id]), abs=1e-4)
        best = here.topk(top)
        assert [value for _, value in entry.top] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert all(value == pytest.approx(float(here[token]), abs=1e-4) for token, value in entry.top)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("options", [{"max_step_tokens": 7}, {"overlap": True}], ids=["chunks", "overlapped"])
def test_they_equal_transformers_beside_other_requests(make_engine, family, options):
    lengths = (1, 2, 16, 17, 40)
    requests = [asking(f"r{length}", prompt(length)) for length in lengths]
    others = [Request(f"o{length}", list(prompt(length, 1)), greedy()) for length in lengths]
    found = run(make_engine(family, **options), *requests, *others)
    for request in requests:
        tokens, scores, _ = found[request.id]
        assert_transformers(family, request.prompt_ids, scores)
        assert tokens == expected(family, tuple(request.prompt_ids))
    for request in others:
        assert found[request.id][:2] == (expected(family, tuple(request.prompt_ids)), [])


@BOTH
def test_a_prefix_in_the_cache_is_computed_again(make_engine, overlap):
    engine = make_engine(overlap=overlap)
    run(engine, Request("before", list(prompt(200)), greedy()))
    tokens, scores, _ = run(engine, asking("asks", prompt(200)))["asks"]
    assert_transformers("llama", prompt(200), scores)
    assert tokens == expected("llama", prompt(200))
    assert engine.stats().prefix_hit_tokens == 0


@BOTH
def test_a_preempted_request_reports_each_token_once(make_engine, overlap):
    requests = [asking(f"r{salt}", prompt(31, salt)) for salt in range(6)] + [asking("long", prompt(200))]
    engine = make_engine(num_pages=18, max_step_tokens=40, overlap=overlap)
    found = run(engine, *requests)
    assert engine.stats().preemptions > 0
    for request in requests:
        assert_transformers("llama", request.prompt_ids, found[request.id][1])
        assert found[request.id][0] == expected("llama", tuple(request.prompt_ids))


@BOTH
@pytest.mark.parametrize("generated", [0, 5, NEW_TOKENS])
def test_a_resumed_request_reports_them_again(make_engine, overlap, generated):
    whole = expected("llama", prompt(40))
    request = asking("r", prompt(40), output_ids=whole[:generated])
    tokens, scores, ends = run(make_engine(overlap=overlap), request)["r"]
    assert tokens == whole[generated:]
    assert_transformers("llama", prompt(40), scores)
    assert ends == [FinishReason.LENGTH]


@BOTH
def test_without_a_token_to_generate_they_are_all_that_comes(make_engine, overlap):
    requests = [asking(f"r{length}", prompt(length), max_tokens=0) for length in (1, 2, 16, 40)]
    found = run(make_engine(overlap=overlap), *requests)
    for request in requests:
        tokens, scores, ends = found[request.id]
        assert (tokens, ends) == ([], [FinishReason.LENGTH])
        assert_transformers("llama", request.prompt_ids, scores)


@BOTH
def test_a_step_holds_the_logits_of_few_prompt_tokens(make_engine, overlap):
    engine = make_engine(overlap=overlap, max_step_tokens=2000)
    ids = prompt(1000)
    engine.submit(asking("a", ids, top=0, max_tokens=1))
    engine.submit(asking("b", ids, top=0, max_tokens=1))
    engine.submit(Request("c", list(ids), greedy(1)))
    sizes, scores = [], []
    while engine.has_work:
        made = [progress for progress in engine.step() if progress.prompt_logprobs]
        sizes.append(sum(len(progress.prompt_logprobs) for progress in made))
        scores += [entry for progress in made if progress.id == "a" for entry in progress.prompt_logprobs]
    assert max(sizes) == MOST_SCORED
    assert_transformers("llama", ids, scores, top=0)


@BOTH
def test_every_token_of_the_vocabulary_can_be_asked_for(make_engine, overlap):
    _, scores, _ = run(make_engine(overlap=overlap), asking("r", prompt(16), top=10 * VOCAB))["r"]
    assert all(len(entry.top) == VOCAB for entry in scores)
    assert_transformers("llama", prompt(16), scores, top=VOCAB)


def test_a_negative_number_is_refused(make_engine):
    with pytest.raises(RequestError, match="prompt_logprobs"):
        make_engine().submit(Request("r", [5, 6], SamplingParams(), prompt_logprobs=-1))


@BOTH
@pytest.mark.parametrize("step_tokens", [7, 512])
def test_those_of_a_continuation_begin_behind_a_prefix_from_the_cache(make_engine, overlap, step_tokens):
    engine = make_engine(overlap=overlap, max_step_tokens=step_tokens)
    run(engine, Request("before", list(prompt(200)), greedy(1)))
    ends = {f"r{length}": prompt(length, 3) for length in (1, 2, 16, 40)}
    requests = [asking(name, prompt(200) + end, max_tokens=0, unscored=200) for name, end in ends.items()]
    found = run(engine, *requests)
    for request in requests:
        assert len(found[request.id][1]) == len(ends[request.id])
        assert_transformers("llama", request.prompt_ids, found[request.id][1], first=200)
    assert engine.stats().prefix_hit_tokens == 4 * 192


@pytest.mark.parametrize("unscored", [-1, 2])
def test_a_continuation_of_no_tokens_is_refused(make_engine, unscored):
    with pytest.raises(RequestError, match="unscored"):
        make_engine().submit(Request("r", [5, 6], greedy(0), prompt_logprobs=0, unscored=unscored))
