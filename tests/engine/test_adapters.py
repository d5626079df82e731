"""LoRA adapters: each request computes as a model with its adapter merged in would, whatever is beside it."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from headrace.engine import Adapter, Engine, EngineConfig, FinishReason, Request, RequestError, SamplingParams
from headrace.kernels import compiled
from headrace.kernels.compiled import PRODUCTS, products_here

from ..support.lora import adapter_in, merge, save_adapter
from .conftest import greedy, prompt, run

KINDS = {
    "all": {},
    "attention": {"modules": ("q_proj", "v_proj")},
    "rslora": {"rank": 16, "use_rslora": True, "lora_alpha": 6},
    "patterns": {
        "rank_pattern": {"q_proj": 8},
        "alpha_pattern": {"down_proj": 9},
        "modules": ("q_proj", "down_proj"),
    },
}
STEPS = pytest.mark.parametrize("overlap", [False, True], ids=["plain", "overlapped"])


@pytest.fixture(scope="module")
def adapters(model_folder, tmp_path_factory) -> dict[str, Adapter]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        kind: adapter_in(save_adapter(folder / kind, model_folder("llama"), seed=seed, **options), kind)
        for seed, (kind, options) in enumerate(KINDS.items())
    }


@pytest.fixture(scope="module")
def merged(model_folder, adapters, tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("merged"), {}

    def of(kind: str) -> Path:
        if kind not in made:
            made[kind] = merge(model_folder("llama"), Path(adapters[kind].source), folder / kind)
        return made[kind]

    return of


def engine_for(make_engine, **options) -> Engine:
    return make_engine("llama", threads=1, **{"max_adapters": 4, **options})


def ask(
    name: str, adapter: Adapter | None, length: int = 21, params: SamplingParams | None = None
) -> Request:
    return Request(name, list(prompt(length)), params or greedy(12), adapter=adapter)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_request_gets_what_transformers_makes_of_the_merged_model(make_engine, adapters, merged, kind):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(merged(kind), dtype=torch.float32).eval()
    ids = torch.tensor([prompt(21)])
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    engine = engine_for(make_engine)
    assert run(engine, ask("a", adapters[kind]))["a"] == out[0, 21:].tolist()
    assert run(engine, ask("a", None))["a"] != out[0, 21:].tolist()


def test_log_probabilities_are_those_of_the_merged_model(make_engine, model_folder, adapters, merged):
    params = replace(greedy(6), logprobs=5)

    def entries(engine, adapter):
        engine.submit(ask("a", adapter, params=params))
        return [entry for progress in iter(engine.step, []) for entry in progress[0].logprobs]

    ours = entries(engine_for(make_engine), adapters["rslora"])
    theirs = entries(Engine(EngineConfig(str(merged("rslora")), num_pages=65, threads=1)), None)
    assert [entry.token_id for entry in ours] == [entry.token_id for entry in theirs]
    torch.testing.assert_close(
        *(torch.tensor([e.logprob for e in part]) for part in (ours, theirs)), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@STEPS
def test_a_mixed_batch_gives_each_what_it_gets_alone(make_engine, adapters, overlap, dtype):
    sampled = SamplingParams(max_tokens=12, seed=3, top_p=0.9)
    requests = [
        ask(f"{kind} {length}", adapters.get(kind), length, params)
        for kind in (*KINDS, "base")
        for length, params in ((5, greedy(12)), (40, sampled))
    ]
    alone = {}
    for request in requests:
        alone |= run(engine_for(make_engine, overlap=overlap, dtype=dtype), request)
    assert run(engine_for(make_engine, overlap=overlap, dtype=dtype, max_step_tokens=32), *requests) == alone


@pytest.mark.parametrize("family", ["qwen2", "qwen3_moe", "granite"])
def test_adapters_of_other_families_are_added_in_the_right_places(
    make_engine, model_folder, tmp_path, family
):
    modules = ("q_proj", "o_proj") if family == "qwen3_moe" else ("k_proj", "o_proj", "down_proj", "up_proj")
    folder = save_adapter(tmp_path / "adapter", model_folder(family), modules=modules)
    whole = Engine(
        EngineConfig(str(merge(model_folder(family), folder, tmp_path / "merged")), num_pages=65, threads=1)
    )
    engine = make_engine(family, max_adapters=1, threads=1)
    assert run(engine, ask("a", adapter_in(folder))) == run(whole, ask("a", None))


@pytest.mark.parametrize("quantization", [None, "int8"])
@pytest.mark.parametrize("products", PRODUCTS)
def test_the_compiled_step_is_near_the_merged_model(
    make_engine, adapters, merged, products, quantization, monkeypatch
):
    if products not in products_here():
        pytest.skip(f"this machine has no {products} products")
    monkeypatch.setattr(compiled, "products_here", lambda: (products,))
    params = replace(greedy(1), logprobs=300)

    def logprobs(engine, adapter):
        beside = [ask("base", None, 9), ask("other", adapter and adapters["attention"], 30)]
        for request in (beside[0], ask("a", adapter, params=params), beside[1]):
            engine.submit(request)
        (entry,) = [each for progress in engine.step() if progress.id == "a" for each in progress.logprobs]
        return torch.tensor([value for _, value in sorted(entry.top)])

    exact = logprobs(Engine(EngineConfig(str(merged("all")), num_pages=65, threads=1)), None)
    options = {"dtype": "bfloat16", "quantization": quantization}
    near = logprobs(engine_for(make_engine, **options), adapters["all"])
    base = logprobs(engine_for(make_engine), None)
    assert (near - exact).abs().mean() < 0.1 * (base - exact).abs().mean()


def test_deterministic_mode_gives_an_adapter_the_same_bits_in_every_batch(make_engine, adapters):
    options = {"deterministic": True, "max_step_tokens": 32}
    params = replace(greedy(8), logprobs=3)

    def entries(*requests):
        engine, found = engine_for(make_engine, **options), []
        for request in requests:
            engine.submit(request)
        while engine.has_work:
            found += [
                entry for progress in engine.step() if progress.id == "a" for entry in progress.logprobs
            ]
        return found

    mine = ask("a", adapters["all"], params=params)
    others = [
        ask(f"{kind} {n}", adapters.get(kind), n) for kind in ("all", "rslora", "base") for n in (3, 50)
    ]
    assert entries(*others, mine) == entries(mine)


def test_a_prefix_is_reused_under_its_own_adapter_only(make_engine, adapters):
    engine = engine_for(make_engine)
    for number, kind in enumerate(("all", "attention", "base", "all", "base", "attention")):
        cached = 0
        engine.submit(ask("a", adapters.get(kind), 40))
        while engine.has_work:
            for progress in engine.step():
                cached = progress.cached_tokens
        assert (cached > 0) is (number >= 3), (number, kind)


def test_an_interrupted_answer_continues_under_its_adapter(make_engine, adapters):
    whole = run(engine_for(make_engine), ask("a", adapters["all"]))["a"]
    for known in (1, 6, 11):
        request = replace(ask("a", adapters["all"]), output_ids=whole[:known])
        assert run(engine_for(make_engine), request)["a"] == whole[known:]


def test_an_adapter_replaced_in_its_folder_serves_new_requests_while_old_ones_go_on(
    make_engine, model_folder, adapters, tmp_path
):
    folder = tmp_path / "mine"
    shutil.copytree(adapters["all"].source, folder)
    engine = engine_for(make_engine)
    expected = {
        kind: run(engine_for(make_engine), ask("a", adapters[kind], 30))["a"] for kind in ("all", "rslora")
    }
    engine.submit(ask("old", adapter_in(folder), 30))
    outputs = {
        "old": [token for _ in range(3) for progress in engine.step() for token in progress.token_ids],
        "new": [],
    }
    shutil.rmtree(folder)
    shutil.copytree(adapters["rslora"].source, folder)
    engine.submit(ask("new", adapter_in(folder), 30))
    while engine.has_work:
        for progress in engine.step():
            outputs[progress.id] += progress.token_ids
        engine.check()
    assert outputs == {"old": expected["all"], "new": expected["rslora"]}


# The store -----------------------------------------------------------------------------------------------


def test_the_longest_unused_adapter_leaves_and_comes_back_when_it_is_asked_for(make_engine, adapters):
    engine = engine_for(make_engine, max_adapters=2)
    store = engine._adapters
    expected = run(engine, ask("a", adapters["all"]))
    for kind in ("attention", "all", "rslora"):
        run(engine, ask("a", adapters[kind]))
    assert store.fingerprints == [adapters[kind].fingerprint for kind in ("all", "rslora")]
    run(engine, ask("a", adapters["patterns"]))
    assert store.fingerprints == [adapters[kind].fingerprint for kind in ("rslora", "patterns")]
    assert run(engine, ask("a", adapters["all"])) == expected


def test_with_all_adapters_in_use_another_waits_and_lets_others_pass(make_engine, adapters):
    engine = engine_for(make_engine, max_adapters=1)
    engine.submit(ask("first", adapters["all"], params=greedy(12)))
    engine.submit(ask("other adapter", adapters["rslora"], params=greedy(2)))
    engine.submit(ask("base", None, params=greedy(2)))
    engine.submit(ask("same adapter", adapters["all"], params=greedy(2)))
    order = []
    while engine.has_work:
        order += [progress.id for progress in engine.step() if progress.finish_reason]
        engine.check()
    assert sorted(order[:2]) == ["base", "same adapter"]
    assert order[2:] == ["first", "other adapter"]


def test_the_store_keeps_to_its_bytes(make_engine, adapters):
    engine = engine_for(make_engine)
    run(engine, *(ask(kind, adapters[kind]) for kind in KINDS))
    kept = engine._adapters._kept
    sizes = {kind: kept[adapter.fingerprint].weights.bytes for kind, adapter in adapters.items()}
    assert sizes["attention"] == 3 * (4 * (64 + 64) + 4 * (64 + 32)) * 4
    small = engine_for(make_engine, adapter_memory_bytes=sizes["all"] + sizes["attention"])
    run(small, *(ask(kind, adapters[kind]) for kind in ("all", "attention", "patterns")))
    assert small._adapters.bytes <= sizes["all"] + sizes["attention"]
    with pytest.raises(
        RequestError, match=rf"'rslora' .* {sizes['rslora']} bytes, more than adapter_memory_bytes"
    ):
        small.submit(ask("too large", adapters["rslora"]))


def test_a_preempted_request_lets_go_of_its_adapter_and_loses_nothing(make_engine, adapters):
    def asked(kind):
        return Request(kind, list(prompt(30)), greedy(40), adapter=adapters.get(kind))

    alone = {kind: run(engine_for(make_engine), asked(kind))[kind] for kind in ("all", "rslora", "base")}
    engine = engine_for(make_engine, num_pages=9, max_adapters=2)
    assert run(engine, *map(asked, alone)) == alone
    assert engine.stats().preemptions


def test_a_waiting_request_whose_adapter_is_gone_fails_alone(make_engine, adapters, tmp_path):
    folder = tmp_path / "gone"
    shutil.copytree(adapters["rslora"].source, folder)
    gone = adapter_in(folder, "mine")
    engine = engine_for(make_engine, max_adapters=1)
    expected = run(engine_for(make_engine), ask("a", adapters["all"]))["a"]
    engine.submit(ask("a", adapters["all"]))
    engine.step()
    engine.submit(ask("b", gone))
    shutil.rmtree(folder)
    ends = {}
    while engine.has_work:
        for progress in engine.step():
            if progress.finish_reason:
                ends[progress.id] = progress
        engine.check()
    assert ends["b"].finish_reason is FinishReason.ERROR
    assert f"adapter 'mine' can't be loaded: there is no folder '{folder}'" in ends["b"].error
    assert ends["a"].finish_reason is FinishReason.LENGTH
    assert run(engine, ask("a", adapters["all"]))["a"] == expected


def test_without_max_adapters_requests_with_one_are_refused(make_engine, adapters):
    engine = make_engine("llama")
    with pytest.raises(RequestError, match="adapter 'all' can't be loaded: max_adapters is 0; raise it"):
        engine.submit(ask("a", adapters["all"]))
    assert run(engine, ask("a", None))["a"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft's, of transformers
@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_that_peft_saved_gives_what_peft_generates(make_engine, model_folder, tmp_path, rslora):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model_folder("llama"), dtype=torch.float32)
    config = peft.LoraConfig(
        r=6,
        lora_alpha=9,
        use_rslora=rslora,
        target_modules="all-linear",
        init_lora_weights=False,
        rank_pattern={"v_proj": 3},
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(base, config).eval()
    model.save_pretrained(tmp_path)
    ids = torch.tensor([prompt(21)])
    merged = model.merge_and_unload()
    with torch.inference_mode():
        out = merged.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    request = ask("a", adapter_in(tmp_path))
    assert run(engine_for(make_engine), request)["a"] == out[0, 21:].tolist()
