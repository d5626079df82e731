"""A prompt's score is that of transformers' own classification head, however its step was filled."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from headrace.engine import (
    Engine,
    EngineConfig,
    FinishReason,
    ModelError,
    Pooling,
    Request,
    RequestError,
    SamplingParams,
    self_test,
)

from .conftest import PAGES, _model, expected, greedy, prompt

LENGTHS = (1, 2, 15, 16, 17, 31, 200)
NO, YES = 11, 7


def scored(name, ids, **fields):
    return Request(name, list(ids), SamplingParams(), pooling=Pooling(score=True), **fields)


def finish(engine, *requests):
    """The scores, and the tokens of the requests that generate."""
    scores, tokens = {}, {}
    for request in requests:
        engine.submit(request)
    while engine.has_work:
        for progress in engine.step():
            if progress.score is not None:
                assert (progress.token_ids, progress.vector, progress.id in scores) == ([], None, False)
                scores[progress.id] = progress.score
            tokens.setdefault(progress.id, []).extend(progress.token_ids)
        engine.check()
    return scores, tokens


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
    """Folders with random classifiers of one label by family, and the models."""
    from transformers import (
        LlamaConfig,
        LlamaForSequenceClassification,
        Qwen2Config,
        Qwen2ForSequenceClassification,
        Qwen3Config,
        Qwen3ForSequenceClassification,
    )

    kinds = {
        "llama": (LlamaConfig, LlamaForSequenceClassification),
        "qwen2": (Qwen2Config, Qwen2ForSequenceClassification),
        "qwen3": (Qwen3Config, Qwen3ForSequenceClassification),
    }

    def made(family, labels=1):
        config, kind = kinds[family]
        torch.manual_seed(3)
        shape = _model(family).config.to_dict() | {"num_labels": labels, "pad_token_id": 0}
        shape = {name: value for name, value in shape.items() if name not in {"id2label", "label2id"}}
        model = kind(config(**shape)).eval()
        folder = tmp_path_factory.mktemp(f"classifier-{family}")
        model.save_pretrained(folder)
        return folder, model

    return made


def sigmoid_of(model, request):
    with torch.inference_mode():
        return float(model(torch.tensor([request.prompt_ids])).logits[0, 0].double().sigmoid())


@pytest.mark.parametrize(("step_tokens", "overlap"), [(7, False), (512, False), (64, True)])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_ragged_batch_in_chunks_equals_the_head_of_transformers(classifiers, family, step_tokens, overlap):
    folder, model = classifiers(family)
    engine = Engine(
        EngineConfig(model=str(folder), num_pages=PAGES, max_step_tokens=step_tokens, overlap=overlap)
    )
    assert engine.model_info.task == "score"
    self_test(engine)
    requests = [scored(f"r{length}", prompt(length, 1)) for length in LENGTHS]
    for _ in range(2):  # the second time with prefixes from the cache
        scores, _ = finish(engine, *requests)
        wanted = {request.id: sigmoid_of(model, request) for request in requests}
        assert scores == pytest.approx(wanted, abs=1e-5)
    assert engine.stats().prefix_hit_tokens > 0
    assert engine.stats().pages_held == 0
    with pytest.raises(RequestError, match="can only embed and score"):
        engine.submit(Request("b", list(prompt(31)), greedy()))


@pytest.mark.parametrize("family", ["llama", "qwen2"], ids=["own-head", "tied"])
def test_two_words_are_compared_as_their_softmax_while_others_generate(make_engine, family):
    engine = make_engine(family, classifier_token_ids=(NO, YES), max_step_tokens=64)
    requests = [scored(f"r{length}", prompt(length, 2)) for length in LENGTHS]
    answer = Request("a", list(prompt(31)), greedy())
    scores, tokens = finish(engine, answer, *requests)
    assert tokens["a"] == expected(family, prompt(31))
    for request in requests:
        with torch.inference_mode():
            logits = _model(family)(torch.tensor([request.prompt_ids])).logits[0, -1].double()
        assert scores[request.id] == pytest.approx(float(logits[[NO, YES]].softmax(0)[1]), abs=1e-5)


def test_a_preempted_prompt_is_scored_once_as_alone(classifiers):
    folder, model = classifiers("qwen3")
    engine = Engine(EngineConfig(model=str(folder), num_pages=18, max_step_tokens=40))
    requests = [scored(f"r{salt}", prompt(100, salt)) for salt in range(6)]
    scores, _ = finish(engine, *requests)
    assert scores == pytest.approx({each.id: sigmoid_of(model, each) for each in requests}, abs=1e-5)


@pytest.mark.parametrize("activation", ["Sigmoid", "Identity"])
def test_a_head_that_gives_no_number_fails_its_prompt_alone(classifiers, activation):
    folder, _ = classifiers("qwen3")
    config = json.loads((folder / "config.json").read_text())
    config["sentence_transformers"] = {"activation_fn": activation}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    tensors["score.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    engine = Engine(EngineConfig(model=str(folder), num_pages=40))
    engine.submit(scored("a", prompt(5)))
    (progress,) = engine.step()
    assert (progress.score, progress.finish_reason) == (None, FinishReason.ERROR)
    assert "contains NaN or infinity" in progress.error
    assert engine.stats().pages_held == 0


@pytest.mark.parametrize("named", ["torch.nn.modules.linear.Identity", "torch.nn.modules.activation.ReLU"])
def test_config_json_says_what_becomes_of_the_product(classifiers, named):
    folder, model = classifiers("qwen3")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"sentence_transformers": {"activation_fn": named}})
    )
    asked = EngineConfig(model=str(folder), num_pages=40)
    if named.endswith("ReLU"):
        with pytest.raises(ModelError, match="asks for the activation ReLU; supported are Sigmoid and Ident"):
            Engine(asked)
        return
    request = scored("a", prompt(31))
    score = finish(Engine(asked), request)[0]["a"]
    assert 1 / (1 + np.exp(-score)) == pytest.approx(sigmoid_of(model, request), abs=1e-5)


def test_a_model_that_is_not_made_for_it_is_refused_by_name(make_engine, classifiers, model_folder, tmp_path):
    with pytest.raises(RequestError, match=r"no head that scores.*classifier_from_token"):
        make_engine().submit(scored("a", prompt(31)))
    folder, _ = classifiers("qwen3", labels=3)
    with pytest.raises(ModelError, match="Qwen3ForSequenceClassification has 3 labels"):
        Engine(EngineConfig(model=str(folder), num_pages=40))
    bert = shutil.copytree(model_folder("llama"), tmp_path / "bert")
    config = json.loads((bert / "config.json").read_text())
    config |= {"architectures": ["BertForSequenceClassification"], "model_type": "bert"}
    (bert / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="BertForSequenceClassification is an encoder"):
        Engine(EngineConfig(model=str(bert), num_pages=40))
