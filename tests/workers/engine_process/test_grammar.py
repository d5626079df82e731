"""An answer under a grammar is what was asked for, token by token, wherever it is interrupted."""

import json
import random
import re

import jsonschema
import numpy as np
import pytest

from headrace.engine import Engine, EngineConfig, FinishReason, Request, SamplingParams
from headrace.schemas.wire import WireJob
from headrace.workers.engine_process.text import GrammarError, Grammars, Tokenizer, grammar, grammar_of
from headrace.workers.engine_process.text.grammar import MOST_KEPT, lark_grammar, lark_json, lark_string
from headrace.workers.models import resolve_model

from .tokenizers_of import byte_level

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "ü"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


def asked(**fields: object) -> str:
    grammar = grammar_of(WireJob.make(model="demo", prompt="x", **fields))
    assert grammar is not None
    return grammar


def schema(of: object, **options: object) -> dict[str, object]:
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": of, **options}}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(resolve_model("demo"))


@pytest.fixture(scope="module")
def engine() -> Engine:
    config = EngineConfig(model=resolve_model("demo"), max_batch_size=8, num_pages=400, device="cpu")
    return Engine(config)


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer, engine: Engine) -> Grammars:
    return Grammars(tokenizer, engine.model_info.vocab_size, engine.model_info.eos_token_ids)


def generate(engine: Engine, *requests: Request) -> dict[str, tuple[list[int], FinishReason | None]]:
    got: dict[str, tuple[list[int], FinishReason | None]] = {}
    for request in requests:
        engine.submit(request)
    while engine.has_work:
        for progress in engine.step():
            assert not progress.error
            known, _ = got.get(progress.id, ([], None))
            got[progress.id] = known + progress.token_ids, progress.finish_reason
    return got


def request(name: str, follower: object, output: list[int] | None = None, **params: object) -> Request:
    sampling = SamplingParams(**{"max_tokens": 400, "temperature": 1.0, "seed": 1} | params)
    return Request(name, [5, 6, 7], sampling, output_ids=output or [], constraint=follower)


WIDE = {"type": "object", "properties": {f"p{number}": {"type": "integer"} for number in range(1100)}}
"""More properties, each of which may be left out, than the limits allow."""

FORMS = {
    "schema": {"response_format": schema(PERSON)},
    "any object": {"response_format": "json_object"},
    "vLLM's schema": {"structured_outputs": {"json": PERSON}},
    "regex": {"structured_outputs": {"regex": r"\d{4}-\d\d-\d\d( [a-z]+){3,5}"}},
    "choice": {"structured_outputs": {"choice": ["yes", 'no, "never"', "naïve\n\\d", "\u0001 €"]}},
    "lark": {
        "structured_outputs": {"grammar": 'start: item ("," item)+\nitem: /[a-z]{2,4}/ | "(" start ")"'}
    },
}


def fits(form: str, text: str) -> bool:
    match form:
        case "schema" | "vLLM's schema":
            jsonschema.validate(json.loads(text), PERSON)
            return list(json.loads(text)) == list(PERSON["properties"])
        case "any object":
            return isinstance(json.loads(text), dict)
        case "regex":
            return re.fullmatch(FORMS["regex"]["structured_outputs"]["regex"], text) is not None
        case "choice":
            return text in FORMS["choice"]["structured_outputs"]["choice"]
        case _:
            return re.fullmatch(r"[a-z,()]+", text) is not None


@pytest.mark.parametrize("form", FORMS)
def test_what_ends_by_itself_has_the_form_and_what_does_not_is_a_beginning_of_it(
    form: str, engine: Engine, grammars: Grammars, tokenizer: Tokenizer
):
    grammar = asked(**FORMS[form])
    ended = 0
    requests = [request(f"{seed}", grammars.follow(grammar), seed=seed, max_tokens=120) for seed in range(8)]
    for token_ids, reason in generate(engine, *requests).values():
        if reason is FinishReason.STOP:
            ended += 1
            assert token_ids[-1] in engine.model_info.eos_token_ids
            assert fits(form, tokenizer.spelt_out(token_ids[:-1]))
        else:
            assert len(token_ids) == 120
            grammars.follow(grammar, token_ids).fill(np.zeros(128, np.int32))
    assert ended


def test_an_answer_cut_after_any_token_goes_on_with_the_same_tokens(engine: Engine, grammars: Grammars):
    grammar = asked(response_format=schema(PERSON))
    whole, _ = generate(engine, request("whole", grammars.follow(grammar)))["whole"]
    cuts = [
        request(f"{cut}", grammars.follow(grammar, whole[:cut]), whole[:cut]) for cut in range(1, len(whole))
    ]
    for name, (rest, _) in generate(engine, *cuts).items():
        assert whole[: int(name)] + rest == whole


def test_every_end_token_of_the_model_ends_an_answer_and_only_where_it_may_end(
    engine: Engine, grammars: Grammars, tokenizer: Tokenizer
):
    ends = engine.model_info.eos_token_ids
    follower, mask = grammars.follow(asked(structured_outputs={"regex": "(a|b)+"})), np.zeros(128, np.int32)
    for text, may_end in (("", False), ("a", True), ("ba", True)):
        follower = grammars.follow(asked(structured_outputs={"regex": "(a|b)+"}), tokenizer.encode(text))
        follower.fill(mask)
        allowed = set(np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist())
        assert (allowed & set(ends) == set(ends)) is may_end
        assert may_end or not allowed & set(ends)
    assert len(ends) > 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"response_format": schema({"type": "array", "uniqueItems": True})}, "uniqueItems"),
        ({"response_format": schema({"not": {"type": "string"}})}, '"not"'),
        ({"response_format": schema({"type": "strin"})}, "strin"),
        ({"response_format": schema({"$ref": "http://127.0.0.1/x"})}, "does not fetch"),
        ({"response_format": schema({"enum": []})}, "Unsatisfiable"),
        ({"structured_outputs": {"regex": "(?=a)b"}}, "look-around"),
        ({"structured_outputs": {"regex": "("}}, "regex"),
        ({"structured_outputs": {"grammar": 'start: "a" b'}}, 'unknown name: "b"'),
        ({"structured_outputs": {"json": WIDE}}, "Current row has"),
        ({"response_format": schema({"$ref": "#"})}, "no text of this model's tokens follows it"),
    ],
)
def test_what_can_not_be_enforced_is_refused_by_its_keyword(fields, words, grammars: Grammars):
    with pytest.raises(GrammarError, match=re.escape(words)) as refused:
        grammars.follow(asked(**fields))
    assert not re.search(r"\n|<|NoExt", str(refused.value))
    assert len(str(refused.value)) < 400


def test_an_answer_that_takes_too_long_to_follow_is_given_up(
    grammars: Grammars, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
):
    ambiguous = asked(structured_outputs={"grammar": 'start: s\ns: s s | s s s | "a" | ""'})
    follower, letters = grammars.follow(ambiguous), tokenizer.encode("a" * 20)
    monkeypatch.setattr(grammar, "SLOW_S", 0.0)
    monkeypatch.setattr(grammar, "FOLLOW_S", 0.0)
    monkeypatch.setattr(grammar, "FOLLOW_S_A_TOKEN", 0.0)
    with pytest.raises(GrammarError, match=r"took .* for \d+ tokens; make it less ambiguous"):
        follower.take(letters)


def test_strict_false_lets_a_keyword_go_unheeded(grammars: Grammars):
    loose = schema({"type": "array", "items": {"type": "integer"}, "uniqueItems": True}, strict=False)
    grammars.follow(asked(response_format=loose))


def test_whitespace_between_tokens_has_a_bound(grammars: Grammars, tokenizer: Tokenizer):
    (space,) = tokenizer.encode("{ ")[1:] or tokenizer.encode(" ")
    follower = grammars.follow(asked(response_format=schema(PERSON)), tokenizer.encode("{"))
    with pytest.raises(GrammarError, match="grammar"):
        follower.take([space] * 65)


def test_a_token_that_breaks_the_grammar_is_named(grammars: Grammars, tokenizer: Tokenizer):
    with pytest.raises(GrammarError, match=r"satisfy|follow"):
        grammars.follow(asked(structured_outputs={"choice": ["yes"]}), tokenizer.encode("no"))


def test_a_worker_can_give_a_lark_grammar_of_its_own(
    engine: Engine, grammars: Grammars, tokenizer: Tokenizer
):
    lark = lark_grammar(f"start: {lark_string('<call>')} body\nbody: {lark_json(PERSON)}")
    token_ids, _ = generate(engine, request("a", grammars.follow(lark)))["a"]
    text = tokenizer.spelt_out(token_ids[:-1])
    jsonschema.validate(json.loads(text.removeprefix("<call>")), PERSON)


def test_compiled_grammars_are_kept_within_bounds(grammars: Grammars, monkeypatch: pytest.MonkeyPatch):
    for number in range(2 * MOST_KEPT):
        grammars.follow(asked(structured_outputs={"choice": [f"c{number}"]}))
    assert len(grammars._kept) == MOST_KEPT
    assert grammars._kept_bytes == sum(map(len, grammars._kept))
    monkeypatch.setattr(grammar, "MOST_KEPT_S", grammars._kept_s / 2)
    grammars.follow(asked(structured_outputs={"choice": ["one more"]}))
    assert len(grammars._kept) < MOST_KEPT
    assert grammars._kept_s == pytest.approx(sum(took_s for _, took_s in grammars._kept.values()))


def test_a_tokenizer_may_name_more_or_fewer_tokens_than_the_model_has(tmp_path):
    small = byte_level(tmp_path)
    known = small._backend.get_vocab_size()
    for vocab in (known - 3, known, known + 70):
        follower = Grammars(small, vocab, [0]).follow(asked(structured_outputs={"regex": "[a-z]+"}))
        mask = np.zeros(-(-vocab // 32), np.int32)
        follower.fill(mask)
        assert mask.any()


def test_plain_neighbours_keep_their_tokens(engine: Engine, grammars: Grammars):
    plain = [request(f"plain{seed}", None, seed=seed, max_tokens=40) for seed in range(3)]
    alone = generate(engine, *plain)
    bound = [request(f"{seed}", grammars.follow(asked(response_format=schema(PERSON)))) for seed in range(3)]
    beside = generate(engine, *(each for pair in zip(bound, plain, strict=True) for each in pair))
    assert {name: beside[name] for name in alone} == alone


def test_a_grammar_of_random_regexes_is_followed_to_the_letter(
    engine: Engine, grammars: Grammars, tokenizer: Tokenizer
):
    rng = random.Random(4)
    for seed in range(6):
        regex = "".join(rng.choice(["[a-f]", "x?", "(yes|no)", "[0-9]{1,3}", " ", "é*"]) for _ in range(6))
        token_ids, reason = generate(
            engine, request("a", grammars.follow(asked(structured_outputs={"regex": regex})), seed=seed)
        )["a"]
        assert reason is FinishReason.STOP or "é" in regex
        if reason is FinishReason.STOP:
            assert re.fullmatch(regex, tokenizer.spelt_out(token_ids[:-1]))
