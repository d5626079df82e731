"""A prompt's vector is the pooled last hidden state of transformers, however its step was filled."""

import copy
import json
import shutil
from functools import cache

import numpy as np
import pytest
import torch

from headrace.engine import (
    Engine,
    EngineConfig,
    ModelError,
    Pooling,
    Request,
    RequestError,
    SamplingParams,
    self_test,
)

from .conftest import FAMILIES, PAGES, _model, expected, greedy, prompt

LENGTHS = (1, 2, 15, 16, 17, 31, 200)
LAST, MEAN = Pooling("last", normalize=False), Pooling("mean", normalize=False)


def pooled(name, ids, pooling=LAST, **fields):
    return Request(name, list(ids), SamplingParams(), pooling=pooling, **fields)


def finish(engine, *requests):
    """The vectors of those that are pooled, and the tokens of the others."""
    vectors, tokens = {}, {request.id: [] for request in requests if request.pooling is None}
    for request in requests:
        engine.submit(request)
    while engine.has_work:
        for progress in engine.step():
            if progress.id in tokens:
                tokens[progress.id] += progress.token_ids
            else:
                assert (progress.token_ids, progress.error) == ([], "")
                assert progress.id not in vectors
                vectors[progress.id] = progress.vector
        engine.check()
    assert engine.stats().pages_held == 0
    return vectors, tokens


def reference(model, request):
    with torch.inference_mode():
        states = model.model(torch.tensor([request.prompt_ids])).last_hidden_state[0].numpy()
    return states[-1] if request.pooling.type == "last" else states.mean(0)


def assert_equal_transformers(family, requests, vectors):
    for request in requests:
        wanted = reference(_model(family), request)
        difference = np.abs(vectors[request.id] - wanted).max() / np.abs(wanted).max()
        assert difference < 1e-5, (request.id, difference)


def ragged(salt=0):
    return [
        pooled(f"{pooling.type}-{length}", prompt(length, salt), pooling)
        for length in LENGTHS
        for pooling in (LAST, MEAN)
    ]


@pytest.mark.parametrize("overlap", [False, True], ids=["plain", "overlapped"])
@pytest.mark.parametrize("step_tokens", [7, 512])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_ragged_batch_in_chunks_equals_transformers(make_engine, family, step_tokens, overlap):
    requests = ragged()
    engine = make_engine(family, max_step_tokens=step_tokens, overlap=overlap)
    assert_equal_transformers(family, requests, finish(engine, *requests)[0])


@pytest.mark.parametrize("overlap", [False, True], ids=["plain", "overlapped"])
def test_generation_beside_it_has_the_tokens_it_has_alone(make_engine, overlap):
    answers = [
        Request(f"a{length}", list(prompt(length, 5)), greedy(), prompt_logprobs=scored)
        for length, scored in ((1, None), (17, 2), (200, None))
    ]
    requests = ragged()
    mixed = [request for pair in zip(requests, answers * 5, strict=False) for request in pair][:6] + requests[
        3:
    ]
    engine = make_engine("llama", max_step_tokens=40, overlap=overlap)
    vectors, tokens = finish(engine, *mixed)
    assert tokens == {request.id: expected("llama", tuple(request.prompt_ids)) for request in answers}
    assert_equal_transformers("llama", [request for request in requests if request in mixed], vectors)


@pytest.mark.parametrize("overlap", [False, True], ids=["plain", "overlapped"])
def test_one_that_lost_its_pages_begins_again(make_engine, overlap):
    answers = [Request(f"a{salt}", list(prompt(31, salt)), greedy(60)) for salt in range(6)]
    requests = [
        pooled(f"p{salt}", prompt(170, salt), (LAST, MEAN)[salt % 2], priority=1) for salt in range(4)
    ]
    engine = make_engine("llama", num_pages=26, max_step_tokens=9, overlap=overlap)
    vectors, _ = finish(engine, *answers, *requests)
    assert engine.stats().preemptions > 0
    assert_equal_transformers("llama", requests, vectors)


def test_a_cached_prefix_serves_the_last_token_and_not_the_mean(make_engine):
    engine = make_engine("llama")
    finish(engine, Request("first", list(prompt(200)), greedy(1)))
    again = [pooled("last", prompt(200)), pooled("mean", prompt(200), MEAN)]
    for request, hits in zip(again, (192, 0), strict=True):
        before = engine.stats().prefix_hit_tokens
        assert_equal_transformers("llama", [request], finish(engine, request)[0])
        assert engine.stats().prefix_hit_tokens - before == hits


def test_a_pooled_prompt_leaves_its_prefix_to_others(make_engine):
    engine = make_engine("llama")
    finish(engine, pooled("mean", prompt(200), MEAN))
    _, tokens = finish(engine, Request("a", list(prompt(200)), greedy()))
    assert tokens["a"] == expected("llama", prompt(200))
    assert engine.stats().prefix_hit_tokens == 192


def test_fewer_dimensions_are_the_first_ones_at_length_one(make_engine):
    engine = make_engine("llama")
    asked = {"whole": Pooling(), "first": Pooling(dimensions=8), "raw": Pooling("last", False, 8)}
    vectors, _ = finish(engine, *(pooled(name, prompt(31), pooling) for name, pooling in asked.items()))
    assert [len(vector) for vector in vectors.values()] == [64, 8, 8]
    assert np.linalg.norm(vectors["whole"]) == pytest.approx(1, abs=1e-6)
    assert vectors["first"] == pytest.approx(vectors["raw"] / np.linalg.norm(vectors["raw"]), abs=1e-6)


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """Models with weights as small as trained ones; those of the others amplify every rounding."""

    @cache
    def made(family):
        torch.manual_seed(1)
        model = copy.deepcopy(_model(family))
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.04)
        folder = tmp_path_factory.mktemp(f"calm-{family}")
        model.bfloat16().save_pretrained(folder)
        return folder, model.float()

    return made


@pytest.mark.parametrize("overlap", [False, True], ids=["plain", "overlapped"])
@pytest.mark.parametrize("family", ["qwen3", "granite"], ids=["compiled", "by-operation"])
def test_bfloat16_points_the_same_way_as_transformers_beside_generation(calm, family, overlap):
    folder, model = calm(family)
    asked = {"model": str(folder), "dtype": "bfloat16", "num_pages": PAGES, "max_step_tokens": 64}
    answers = [Request(f"a{length}", list(prompt(length, 5)), greedy()) for length in (1, 31)]
    requests = ragged(3)
    alone = finish(Engine(EngineConfig(**asked)), *answers)[1]
    engine = Engine(EngineConfig(**asked, overlap=overlap))
    vectors, tokens = finish(engine, *requests[:4], *answers, *requests[4:])
    assert tokens == alone
    for request in requests:
        one, other = vectors[request.id], reference(model, request)
        cosine = np.dot(one, other) / np.linalg.norm(one) / np.linalg.norm(other)
        assert cosine > 0.9999, (request.id, cosine)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pooled("a", [5], Pooling(dimensions=65)), "dimensions"),
        (pooled("a", [5], Pooling(dimensions=0)), "dimensions"),
        (pooled("a", [5], Pooling("cls")), "pooling"),
        (pooled("a", [5], output_ids=[7]), "output_ids"),
        (pooled("a", [5], prompt_logprobs=1), "prompt_logprobs"),
    ],
    ids=["too-many", "none", "unknown", "output", "scored"],
)
def test_what_can_not_be_pooled_is_refused_by_name(make_engine, request_, field):
    with pytest.raises(RequestError) as refused:
        make_engine("llama").submit(request_)
    assert refused.value.field == field


def test_the_model_says_how_it_is_pooled(model_folder, tmp_path):
    folder = shutil.copytree(model_folder("llama"), tmp_path / "model")
    (folder / "1_Pooling").mkdir()
    modes = {
        "word_embedding_dimension": 64,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
    }
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    engine = Engine(EngineConfig(model=str(folder), num_pages=40))
    own, last = pooled("own", prompt(31), Pooling(normalize=False)), pooled("last", prompt(31))
    vectors, _ = finish(engine, own, last)
    assert_equal_transformers("llama", [last], vectors)
    assert_equal_transformers("llama", [pooled("own", prompt(31), MEAN)], vectors)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    with pytest.raises(ModelError, match="pooling_mode_cls_token"):
        Engine(EngineConfig(model=str(folder), num_pages=40))


def test_a_model_that_was_saved_without_its_head_only_embeds(tmp_path):
    _model("qwen3").model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["Qwen3Model"]
    engine = Engine(EngineConfig(model=str(tmp_path), num_pages=40))
    self_test(engine)
    request = pooled("a", prompt(31))
    assert_equal_transformers("qwen3", [request], finish(engine, request)[0])
    with pytest.raises(RequestError, match="can only embed"):
        engine.submit(Request("b", list(prompt(31)), greedy()))


def test_a_cancelled_one_gives_its_pages_back(make_engine):
    engine = make_engine("llama", max_step_tokens=7)
    engine.submit(pooled("a", prompt(200), MEAN))
    engine.step()
    assert engine.cancel("a")
    assert finish(engine) == ({}, {})
