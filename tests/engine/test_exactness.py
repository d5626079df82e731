"""Greedy output is transformers' own, token for token, in fp32."""

import pytest
import torch

from headrace.engine import ModelError, Request
from headrace.engine.models import weights
from headrace.kernels.compiled import can_compile

from ..support.covering import covering
from .conftest import DENSE, FAMILIES, NEW_TOKENS, expected, greedy, prompt, run

LENGTHS = (1, 15, 16, 17, 31, 200, 1000)


def requests_for(lengths, params=None, prefix="r"):
    return [
        Request(f"{prefix}{place}", list(prompt(length, salt)), params or greedy())
        for place, (length, salt) in enumerate(lengths)
    ]


def assert_all_expected(family, requests, outputs):
    for request in requests:
        assert outputs[request.id] == expected(family, tuple(request.prompt_ids)), request.id


@pytest.mark.parametrize(("family", "length"), covering(FAMILIES, LENGTHS))
def test_one_request_alone_equals_transformers(make_engine, family, length):
    requests = requests_for([(length, 0)])
    assert_all_expected(family, requests, run(make_engine(family), *requests))


@pytest.mark.parametrize(("family", "sizes"), covering(FAMILIES, [(1, 2), (7, 8), (512, 8)]))
def test_mixed_requests_equal_transformers_at_any_chunk_size(make_engine, family, sizes):
    step_tokens, salts = sizes
    lengths = [(length, salt) for salt in range(salts) for length in (1, 15, 16, 17, 31)]
    requests = requests_for(lengths)
    engine = make_engine(family, max_step_tokens=step_tokens)
    assert_all_expected(family, requests, run(engine, *requests))


@pytest.mark.parametrize(("family", "step_tokens"), covering(FAMILIES, [40, 512]))
def test_preempted_requests_equal_transformers(make_engine, family, step_tokens):
    requests = requests_for([(31, salt) for salt in range(6)] + [(200, 0), (17, 0)])
    engine = make_engine(family, num_pages=18, max_step_tokens=step_tokens)
    assert_all_expected(family, requests, run(engine, *requests))
    assert engine.stats().preemptions > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prefix_found_in_the_cache_changes_nothing(make_engine, family):
    engine = make_engine(family)
    first, again = requests_for([(200, 0)], prefix="a"), requests_for([(200, 0)], prefix="b")
    assert_all_expected(family, first, run(engine, *first))
    assert engine.stats().prefix_hit_tokens == 0
    assert_all_expected(family, again, run(engine, *again))
    assert engine.stats().prefix_hit_tokens == 192


def test_without_the_prefix_cache_nothing_is_found(make_engine):
    engine = make_engine(prefix_cache=False)
    for prefix in "ab":
        requests = requests_for([(200, 0)], prefix=prefix)
        assert_all_expected("llama", requests, run(engine, *requests))
    assert engine.stats().prefix_hit_tokens == 0


def test_a_prefix_is_not_shared_across_salts(make_engine):
    engine = make_engine()
    for salt in ("tenant-a", "tenant-b"):
        run(engine, Request(salt, list(prompt(200)), greedy(), cache_salt=salt))
    assert engine.stats().prefix_hit_tokens == 0


@pytest.mark.parametrize(("family", "length"), covering(FAMILIES, [1, 16, 200]))
def test_a_request_resumed_after_half_its_tokens_goes_on_the_same(make_engine, family, length):
    whole = expected(family, prompt(length))
    half = NEW_TOKENS // 2
    resumed = Request("r", list(prompt(length)), greedy(), output_ids=whole[:half])
    assert run(make_engine(family), resumed)["r"] == whole[half:]


@pytest.mark.parametrize("page_size", [1, 7, 64])
def test_the_page_size_changes_nothing(make_engine, page_size):
    requests = requests_for([(31, 0), (200, 0), (17, 0)])
    assert_all_expected("llama", requests, run(make_engine(page_size=page_size), *requests))


@pytest.mark.parametrize(("family", "compiled"), covering(FAMILIES, [True, False]))
def test_bfloat16_first_divergence_is_a_near_tie(make_engine, monkeypatch, family, compiled):
    """In bf16 the two may part; where they first do, each one's token is in the other's top five."""
    if not compiled:
        monkeypatch.setattr(weights, "can_compile", lambda *_: False)
    engine = make_engine(family, dtype="bfloat16")
    params = greedy()
    for salt in range(4):
        whole = expected(family, prompt(31, salt))
        ours = run(engine, Request(f"b{salt}", list(prompt(31, salt)), params))[f"b{salt}"]
        parted = next((i for i, pair in enumerate(zip(ours, whole, strict=True)) if pair[0] != pair[1]), None)
        if parted is None:
            continue
        assert ours[parted] in top_five(make_engine(family), salt, whole[:parted])
        assert whole[parted] in top_five(engine, salt, whole[:parted])


needs_products = pytest.mark.skipif(
    not can_compile(torch.bfloat16, torch.device("cpu")),
    reason="there is no compiler",
)


@needs_products
@pytest.mark.parametrize("family", DENSE)
def test_int8_weights_keep_the_best_token_near_the_top(make_engine, family):
    engine = make_engine(family, dtype="bfloat16", quantization="int8")
    for salt in range(4):
        whole = expected(family, prompt(31, salt))
        assert whole[0] in top_five(engine, salt, [])


@needs_products
def test_a_compiled_batch_of_any_composition_gives_the_tokens_of_each_alone(make_engine):
    requests = requests_for([(length, 0) for length in LENGTHS])
    alone = {}
    for request in requests:
        alone |= run(make_engine(dtype="bfloat16"), request)
    for step_tokens in (40, 512):
        assert run(make_engine(dtype="bfloat16", max_step_tokens=step_tokens), *requests) == alone


def test_int8_weights_are_refused_where_they_can_not_be_had(make_engine):
    with pytest.raises(ModelError, match="bfloat16"):
        make_engine(dtype="float32", quantization="int8")
    with pytest.raises(ValueError, match="int7"):
        make_engine(quantization="int7")


def top_five(engine, salt, so_far):
    from headrace.engine import SamplingParams

    params = SamplingParams(max_tokens=len(so_far) + 1, temperature=0.0, logprobs=5)
    engine.submit(Request("top", list(prompt(31, salt)), params, output_ids=list(so_far)))
    found = []
    while engine.has_work:
        for progress in engine.step():
            found = [token_id for token_id, _ in progress.logprobs[0].top]
    return found
