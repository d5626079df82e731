"""Every engine keeps what workers rely on: headrace's own in both its ways of launching steps, and others."""

from collections.abc import Callable

import pytest

from headrace.engine import EngineConfig, EngineProtocol, FinishReason, Progress
from headrace.engine.conformance import (
    CHECKS,
    a_request_gets_its_tokens_and_gives_its_room_back,
    a_running_request_holds_room,
    an_interrupted_answer_continues_with_the_same_tokens,
    what_can_not_run_is_refused_alone,
)

from .counting_engine import CountingEngine

Check = Callable[[EngineProtocol], None]
named = {"ids": lambda value: getattr(value, "__name__", str(value))}


@pytest.mark.parametrize("overlap", [False, True], ids=["plain", "overlapped"])
@pytest.mark.parametrize("check", CHECKS, **named)
def test_headraces_own_engine_conforms(
    check: Check, overlap: bool, make_engine: Callable[..., EngineProtocol]
):
    check(
        make_engine(overlap=overlap, max_batch_size=4, num_pages=64, max_context_tokens=128, dtype="float32")
    )


@pytest.mark.parametrize("check", CHECKS, **named)
def test_an_engine_without_torch_conforms(check: Check):
    check(CountingEngine(EngineConfig(model="", max_batch_size=4)))


class Repeats(CountingEngine):
    """It starts an interrupted answer again."""

    def submit(self, request):
        super().submit(request)
        self.tokens[request.id] = list(request.prompt_ids)


class Leaks(CountingEngine):
    """It never gives a slot back."""

    lost = 0

    def cancel(self, request_id):
        known = super().cancel(request_id)
        self.lost += known
        return known

    @property
    def free_slots(self):
        return super().free_slots - self.lost


class TakesAll(CountingEngine):
    """It fails over what it should have refused."""

    def submit(self, request):
        if request.prompt_ids:
            super().submit(request)


class EndsTwice(CountingEngine):
    def step(self):
        ends = [each for each in super().step() if each.finish_reason]
        return ends + [Progress(each.id, [], [], FinishReason.LENGTH) for each in ends]


@pytest.mark.parametrize(
    ("engine", "check"),
    [
        (Repeats, an_interrupted_answer_continues_with_the_same_tokens),
        (Leaks, a_running_request_holds_room),
        (TakesAll, what_can_not_run_is_refused_alone),
        (EndsTwice, a_request_gets_its_tokens_and_gives_its_room_back),
    ],
    **named,
)
def test_a_broken_promise_is_found(engine: type[CountingEngine], check: Check):
    with pytest.raises(AssertionError):
        check(engine(EngineConfig(model="", max_batch_size=4)))


def test_the_protocol_is_what_workers_use():
    acts = "submit", "cancel", "step", "has_work", "check", "stats", "end_also_at"
    room = "free_slots", "free_tokens", "held_tokens", "capacity_tokens", "page_size"
    members = {name for name in vars(EngineProtocol) if not name.startswith("_")}
    assert members == {*acts, *room, "model_info"}
