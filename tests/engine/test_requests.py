"""What can't be loaded or run is refused with a sentence that names it, and touches nothing else."""

import json
import shutil

import pytest

from headrace.engine import (
    Engine,
    EngineConfig,
    FinishReason,
    ModelError,
    Request,
    RequestError,
    SamplingParams,
)

from .conftest import expected, greedy, prompt, run


@pytest.fixture(scope="module")
def engine(make_engine):
    return make_engine(max_context_tokens=64)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (Request("x", [], greedy()), "prompt_ids"),
        (Request("x", list(prompt(64)), greedy()), "prompt_ids"),
        (Request("x", [3, 300], greedy()), "prompt_ids"),
        (Request("x", [3], greedy(), output_ids=[-1]), "output_ids"),
        (Request("x", [3], SamplingParams(logit_bias={999: 1.0})), "logit_bias"),
        (Request("x", [3], SamplingParams(stop_token_ids=(999,))), "stop_token_ids"),
        (Request("x", [3], SamplingParams(allowed_token_ids=(3, -1))), "allowed_token_ids"),
    ],
)
def test_a_request_that_can_never_run_is_refused_by_field(engine, request_, field):
    with pytest.raises(RequestError) as refused:
        engine.submit(request_)
    assert refused.value.field == field
    assert not engine.has_work


def test_an_id_in_use_is_refused_and_the_first_goes_on(make_engine):
    engine = make_engine()
    engine.submit(Request("same", list(prompt(16)), greedy()))
    with pytest.raises(RequestError, match="same"):
        engine.submit(Request("same", list(prompt(17)), greedy()))
    outputs = []
    while engine.has_work:
        for progress in engine.step():
            outputs += progress.token_ids
    assert outputs == expected("llama", prompt(16))


def test_a_prompt_larger_than_the_page_pool_is_refused(make_engine):
    with pytest.raises(RequestError, match="at most 48"):
        make_engine(num_pages=4).submit(Request("x", list(prompt(200)), greedy()))


def test_a_cancelled_request_frees_its_pages(make_engine):
    engine = make_engine()
    engine.submit(Request("gone", list(prompt(200)), greedy()))
    engine.submit(Request("waits", list(prompt(31)), greedy()))
    engine.step()
    assert engine.cancel("gone")
    assert engine.cancel("waits")
    assert not engine.cancel("gone")
    engine.check()
    assert not engine.has_work
    assert engine.stats().pages_held == 0


@pytest.mark.parametrize("done", ["max_tokens", "stop"])
def test_a_request_interrupted_after_its_last_token_ends_at_once(make_engine, done):
    tokens = expected("llama", prompt(16))
    params = greedy(5) if done == "max_tokens" else SamplingParams(max_tokens=50, stop_token_ids=(tokens[4],))
    engine = make_engine()
    engine.submit(Request("r", list(prompt(16)), params, output_ids=tokens[:5]))
    (progress,) = engine.step()
    assert progress.token_ids == []
    assert progress.finish_reason is (FinishReason.LENGTH if done == "max_tokens" else FinishReason.STOP)
    assert not engine.has_work


@pytest.fixture
def checkpoint(model_folder, tmp_path):
    """A copy of a checkpoint to damage."""

    def changed(**config: object):
        folder = tmp_path / "model"
        shutil.copytree(model_folder("llama"), folder)
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return folder

    return changed


def load(folder, **options: object) -> Engine:
    return Engine(EngineConfig(model=str(folder), **options))


@pytest.mark.parametrize(
    ("architecture", "model_type"),
    [
        ("GPT2LMHeadModel", "gpt2"),
        ("T5ForConditionalGeneration", "t5"),
        ("LlamaForTokenClassification", "llama"),  # of a family that is known, with another head
        ("Qwen4Model", "qwen4"),
    ],
)
def test_an_unknown_architecture_is_refused_with_those_supported(checkpoint, architecture, model_type):
    supported = "GraniteForCausalLM, LlamaForCausalLM"
    with pytest.raises(ModelError, match=f"{architecture} is not supported; supported are {supported}"):
        load(checkpoint(architectures=[architecture], model_type=model_type))


def test_an_unsupported_rope_scaling_is_refused(checkpoint):
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 6,
        "long_factor": [1.0] * 6,
    }
    with pytest.raises(ModelError, match="longrope"):
        load(checkpoint(rope_parameters=rope, original_max_position_embeddings=1024))


def test_a_pickled_checkpoint_is_refused_unread(checkpoint):
    folder = checkpoint()
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(ModelError, match="pickled"):
        load(folder)


def test_a_checkpoint_with_missing_tensors_is_refused(checkpoint):
    with pytest.raises(ModelError, match=r"model\.layers\.3"):
        load(checkpoint(num_hidden_layers=4))


@pytest.mark.parametrize("overlap", [False, True])
def test_a_token_id_beyond_the_vocabulary_is_refused_by_field(checkpoint, overlap):
    engine = load(checkpoint(eos_token_id=[7, 310]), overlap=overlap)
    assert engine.model_info.vocab_size == 300
    assert engine.model_info.eos_token_ids == (7,)
    engine.submit(Request("good", list(prompt(16)), SamplingParams(max_tokens=8, seed=1, min_tokens=3)))
    for field, params in (
        ("prompt_ids", greedy()),
        ("logit_bias", SamplingParams(logit_bias={305: 3.0})),
        ("stop_token_ids", SamplingParams(stop_token_ids=(305,))),
    ):
        with pytest.raises(RequestError, match="305 is not in the vocabulary of 300") as refused:
            engine.submit(Request("bad", [305] if field == "prompt_ids" else [3], params))
        assert refused.value.field == field
    engine.submit(Request("edge", [299], greedy(2)))
    while engine.has_work:
        assert all(progress.error == "" for progress in engine.step())


def test_a_name_that_is_no_model_is_refused():
    with pytest.raises(ModelError, match="no/such-model-here"):
        load("no/such-model-here")


def test_a_gpu_that_is_not_there_is_refused(model_folder):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ModelError, match="no CUDA GPU"):
        load(model_folder("llama"), device="cuda")


@pytest.mark.parametrize(
    ("options", "tokens"), [({}, 512), ({"device": "cuda:1"}, 2048), ({"max_step_tokens": 7}, 7)]
)
def test_how_large_steps_are_follows_from_the_device_unless_it_is_set(options, tokens):
    assert EngineConfig(model="any", **options).step_tokens == tokens


@pytest.mark.parametrize("option", ["page_size", "max_batch_size", "max_step_tokens", "num_pages", "threads"])
def test_a_setting_below_one_is_refused_by_name(option):
    with pytest.raises(ValueError, match=option):
        EngineConfig(model="x", **{option: 0})


@pytest.mark.parametrize("overlap", [False, True])
def test_an_end_that_only_the_tokenizer_names_ends_a_text_like_any_other(make_engine, overlap):
    ids = list(prompt(31))
    plain = expected("llama", prompt(31))
    end = plain[4]
    engine = make_engine(overlap=overlap, num_pages=64)
    engine.end_also_at([end, -1, 300])
    assert engine.model_info.eos_token_ids == (end,)
    first = plain.index(end)
    assert run(engine, Request("r", ids, greedy()))["r"] == plain[: first + 1]
    ignoring = SamplingParams(max_tokens=20, temperature=0.0, ignore_eos=True)
    assert run(engine, Request("r", ids, ignoring))["r"] == plain
    held_back = SamplingParams(max_tokens=20, temperature=0.0, min_tokens=20)
    assert end not in run(engine, Request("r", ids, held_back))["r"]
