"""A family is a file: nothing else asks which one it computes; the decoder does all that a spec can say."""

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from headrace.engine import Engine, Request, models
from headrace.engine.models.families import FAMILIES
from headrace.engine.models.spec import DecoderSpec

from .conftest import greedy, prompt, run

MODELS = Path(models.__file__).parent
CHANGES = {
    "activation": "gelu_tanh",
    "attention_scale": 0.5,
    "attention_soft_cap": 2.0,
    "logit_soft_cap": 1.0,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.3,
    "logit_multiplier": 0.25,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_named_in_its_own_file_alone(family: str):
    naming = {
        path.relative_to(MODELS).as_posix()
        for path in MODELS.parent.rglob("*.py")
        if re.search(rf"[\"']({family}|{FAMILIES[family].architecture})[\"']", path.read_text())
    }
    assert naming == {f"families/{family}.py"}


def decoder_of(engine: Engine):
    return engine._executor._decoder


def changed(make_engine, **spec: object) -> Engine:
    engine = make_engine(dtype="float32")
    decoder = decoder_of(engine)
    decoder.config = replace(decoder.config, spec=replace(decoder.config.spec, **spec))
    return engine


@pytest.mark.parametrize(
    "name", sorted(CHANGES.keys() - {"activation", "logit_multiplier", "logit_soft_cap"})
)
def test_the_decoder_heeds_each_field_of_a_spec(make_engine, name: str):
    request = Request("a", list(prompt(31)), greedy())
    assert run(changed(make_engine, **{name: CHANGES[name]}), request) != run(make_engine(), request)


def test_what_compiled_code_can_not_do_is_all_that_it_says(make_engine):
    spec = decoder_of(make_engine()).config.spec
    assert spec.beyond_compiled == []
    for name, value in CHANGES.items():
        assert replace(spec, **{name: value}).beyond_compiled == [name]
    biases = {"qkv_bias", "output_bias", "mlp_bias"}
    others = {"norm_eps", "rope", "sliding_windows", "qk_norm", "mixture", *biases}
    assert {field.name for field in fields(DecoderSpec)} == others | CHANGES.keys()
