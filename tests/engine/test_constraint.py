"""A constraint decides which tokens may come next, whatever else happens to its request.

The constraints here are functions of the output that change with every token, as a grammar's state does.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from headrace.engine import Engine, FinishReason, Progress, Request, RequestError, SamplingParams
from headrace.engine.sampling.constraint import packed

from .conftest import VOCAB, prompt, run
from .test_overlap import OPTIONS, crowd

EOS = 2


class Residues:
    """The next token's id leaves the remainder that the output's sum leaves; it may end after `least` tokens,
    and must end after `most`."""

    def __init__(self, least: int = 4, most: int = 12) -> None:
        self.output: list[int] = []
        self.least, self.most = least, most

    @property
    def taken(self) -> int:
        return len(self.output)

    def take(self, token_ids: Sequence[int]) -> None:
        for token_id in token_ids:
            assert token_id in self.allowed()
            self.output.append(token_id)

    def allowed(self) -> set[int]:
        goes_on = {token for token in range(3, VOCAB) if token % 5 == sum(self.output) % 5}
        return (goes_on if self.taken < self.most else set()) | ({EOS} if self.taken >= self.least else set())

    def fill(self, mask) -> bool:
        mask[:] = packed(tuple(self.allowed()), VOCAB)
        return True


class Fails(Residues):
    def fill(self, mask) -> bool:
        if self.taken == 3:
            raise ValueError("the third token is too hard")
        return super().fill(mask)


class Silent(Residues):
    def allowed(self) -> set[int]:
        return set(range(VOCAB))

    def fill(self, mask) -> bool:
        return False


def drawn(name: str, constraint: Residues, **params: object) -> Request:
    asked = {"max_tokens": 40, "temperature": 1.0, "seed": 5} | params
    return Request(name, list(prompt(17)), SamplingParams(**asked), constraint=constraint)


@pytest.fixture
def ending(make_engine):
    def made(**options: object) -> Engine:
        engine = make_engine(**options)
        engine.end_also_at([EOS])
        return engine

    return made


def steps(engine: Engine, *requests: Request) -> dict[str, list[Progress]]:
    got: dict[str, list[Progress]] = {}
    for request in requests:
        engine.submit(request)
    while engine.has_work:
        for progress in engine.step():
            got.setdefault(progress.id, []).append(progress)
    return got


def mixed(seed: int) -> list[Request]:
    """Every kind of request, every other one with a constraint."""
    rng, requests = random.Random(seed), crowd(seed)
    for request in requests[::2]:
        request.params = replace(request.params, stop_token_ids=())
        request.constraint = Residues(rng.randint(0, 8), rng.randint(8, 30))
    return requests


@pytest.mark.parametrize("overlap", [False, True], ids=["plain", "overlapped"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: next(iter(options), "defaults"))
def test_constraints_hold_and_change_nothing_for_the_others(ending, options, overlap):
    requests = mixed(3)
    outputs = run(ending(overlap=overlap, **options), *requests)
    for request in requests:
        if request.constraint is not None:  # it has checked each token that it was told
            output = outputs[request.id]
            assert request.constraint.output[: len(output)] in (output, output[:-1])
            Residues.take(Residues(request.constraint.least, request.constraint.most), output)
    plain = [request for request in crowd(3) if outputs[request.id] and int(request.id[1:]) % 2]
    assert run(ending(**options), *plain) == {request.id: outputs[request.id] for request in plain}
    assert outputs == run(ending(), *mixed(3))


@pytest.mark.parametrize("overlap", [False, True], ids=["plain", "overlapped"])
def test_an_interrupted_output_continues_as_it_would_have(ending, overlap):
    engine = ending(overlap=overlap)
    whole = run(engine, drawn("whole", Residues()))["whole"]
    assert whole[-1] == EOS
    for known in range(1, len(whole)):
        again = drawn(f"{known}", Residues())
        again.output_ids = whole[:known]
        assert run(engine, again)[f"{known}"] == whole[known:]


def test_an_output_that_may_only_end_ends_even_before_min_tokens(ending):
    short, long = drawn("short", Residues(0, 6), min_tokens=9), drawn("long", Residues(0, 40), min_tokens=9)
    outputs = run(ending(), short, long)
    assert (len(outputs["short"]), outputs["short"][-1]) == (7, EOS)
    assert EOS not in outputs["long"][:9]


def test_a_constraint_that_fails_ends_its_own_request_with_its_reason(ending):
    for overlap in (False, True):
        alone = run(ending(overlap=overlap), drawn("beside", Residues()))["beside"]
        got = steps(ending(overlap=overlap), drawn("bad", Fails()), drawn("beside", Residues()))
        assert got["bad"][-1].finish_reason is FinishReason.ERROR
        assert got["bad"][-1].error == "the third token is too hard"
        assert [each.token_ids[0] for each in got["beside"]] == alone


def test_what_contradicts_a_constraint_is_refused(ending):
    used = Residues()
    used.take([5])
    with pytest.raises(RequestError, match="make a new one"):
        ending().submit(drawn("used", used))
    with pytest.raises(RequestError, match="allowed_token_ids"):
        ending().submit(drawn("both", Residues(), allowed_token_ids=(5,)))


def test_logprobs_are_those_before_the_constraint(ending):
    free, bound = drawn("free", Residues(), logprobs=3), drawn("bound", Residues(), logprobs=3)
    free.constraint = None
    got = steps(ending(), free, bound)
    assert got["free"][0].logprobs[0].top == got["bound"][0].logprobs[0].top


def test_masks_are_packed_with_the_lowest_token_in_the_lowest_bit():
    mask = packed((0, 31, 32, 299), VOCAB)
    assert mask.dtype == np.int32
    assert mask.view(np.uint32).tolist() == [1 | 1 << 31, 1, *[0] * 7, 1 << 11]


@pytest.mark.parametrize("overlap", [False, True], ids=["plain", "overlapped"])
def test_a_constraint_that_says_nothing_changes_nothing(ending, overlap):
    for min_tokens in (0, 12):
        free, silent = (drawn(name, Silent(), min_tokens=min_tokens) for name in ("free", "silent"))
        free.constraint = None
        outputs = run(ending(overlap=overlap), free, silent)
        assert outputs["free"] == outputs["silent"]
        assert min_tokens == 0 or EOS not in outputs["silent"][:12]


def test_a_token_that_can_not_be_chosen_ends_its_own_request(ending):
    """Its step was launched, and its token is to be chosen when the one before has been read."""
    expected = run(ending(overlap=True), drawn("beside", Residues()), drawn("free", Silent()))
    engine = ending(overlap=True)
    launcher, bad = engine._launcher, drawn("bad", Residues(40, 40))
    choose = launcher._sample

    def sample(packed, needs):
        due = len(bad.constraint.output) == 3
        if due and any(each.sequence.request.id == "bad" for each in packed.sampling):
            raise IndexError("index 299 is out of bounds")
        return choose(packed, needs)

    launcher._sample = sample
    got = steps(engine, bad, drawn("beside", Residues()), drawn("free", Silent()))
    assert "index 299 is out of bounds" in got["bad"][-1].error
    assert [each.token_ids[0] for each in got["bad"][:-1]] == bad.constraint.output
    assert {name: [each.token_ids[0] for each in got[name]] for name in expected} == expected
    engine.check()
