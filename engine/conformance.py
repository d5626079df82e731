"""Checks that an engine keeps what `EngineProtocol` promises; any engine can be run through them.

Each of `CHECKS` takes a new, idle engine and raises AssertionError at the first broken promise:

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_mine_conforms(check):
        check(load(EngineConfig(model="folder", max_batch_size=4)))

The engine's vocabulary must have at least 16 tokens, and its capacity must be at least 64 tokens.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from .errors import RequestError
from .parameters import SamplingParams
from .protocol import EngineProtocol
from .request import FinishReason, Pooling, Progress, Request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MOST_STEPS = 10_000
"""An engine that has work for more of them makes no progress."""

_GREEDY = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)
_SAMPLED = replace(_GREEDY, temperature=1.0, seed=7)


def an_idle_engine_has_all_its_room(engine: EngineProtocol) -> None:
    """It has no work and all its room, and knows no request."""
    assert not engine.has_work
    assert engine.step() == []
    assert engine.free_slots > 0
    assert engine.free_tokens >= engine.capacity_tokens > 0
    assert engine.free_tokens % engine.page_size == 0
    assert engine.capacity_tokens <= engine.model_info.context_tokens
    assert engine.held_tokens("nobody") == 0
    assert not engine.cancel("nobody")
    assert (engine.stats().running, engine.stats().waiting) == (0, 0)
    engine.check()


def a_request_gets_its_tokens_and_gives_its_room_back(engine: EngineProtocol) -> None:
    """As many tokens as were asked for, one end, and then the engine is as it was."""
    room = engine.free_slots, engine.free_tokens
    (progress,) = _run(engine, Request("a", _prompt(engine), _GREEDY)).values()
    assert len(_tokens(progress)) == _GREEDY.max_tokens
    assert all(0 <= token_id < engine.model_info.vocab_size for token_id in _tokens(progress))
    assert [each.finish_reason for each in progress if each.finish_reason] == [FinishReason.LENGTH]
    assert progress[-1].finish_reason is FinishReason.LENGTH
    assert (engine.free_slots, engine.free_tokens, engine.held_tokens("a")) == (*room, 0)


def a_running_request_holds_room(engine: EngineProtocol) -> None:
    """It takes a slot and tokens in whole pages, and gives them back when it is cancelled."""
    room = engine.free_slots, engine.free_tokens
    engine.submit(Request("a", _prompt(engine), replace(_GREEDY, max_tokens=32)))
    engine.step()
    held = engine.held_tokens("a")
    assert held > 0
    assert held % engine.page_size == 0
    assert engine.free_slots == room[0] - 1
    assert engine.free_tokens <= room[1] - held
    assert engine.stats().running + engine.stats().waiting == 1
    assert engine.cancel("a")
    assert not engine.cancel("a")
    assert _run(engine) == {}
    assert (engine.free_slots, engine.free_tokens, engine.held_tokens("a")) == (*room, 0)
    engine.check()


def what_can_not_run_is_refused_alone(engine: EngineProtocol) -> None:
    """A request that could never run raises RequestError; the one beside it gets its tokens."""
    prompt = _prompt(engine)
    engine.submit(Request("a", prompt, _GREEDY))
    free = engine.free_slots
    for request in (
        Request("a", prompt, _GREEDY),
        Request("no prompt", [], _GREEDY),
        Request("unknown token", [engine.model_info.vocab_size], _GREEDY),
        Request("too long", [1] * (engine.capacity_tokens + 1), _GREEDY),
        Request("no number", prompt, replace(_GREEDY, temperature=float("nan"))),
    ):
        try:
            engine.submit(request)
        except RequestError:
            continue
        raise AssertionError(f"the request {request.id!r} is taken, though it could never run")
    assert engine.free_slots == free
    assert len(_tokens(_run(engine)["a"])) == _GREEDY.max_tokens


def an_interrupted_answer_continues_with_the_same_tokens(engine: EngineProtocol) -> None:
    """Greedy and sampled answers do, after every token that may have been the last one published."""
    for params in (_GREEDY, _SAMPLED):
        whole = _tokens(_run(engine, Request("a", _prompt(engine), params))["a"])
        for known in range(1, len(whole)):
            rest = _run(engine, Request("a", _prompt(engine), params, output_ids=whole[:known]))["a"]
            assert _tokens(rest) == whole[known:], f"after {known} tokens of {whole}"


def an_answer_that_has_ended_already_ends_again(engine: EngineProtocol) -> None:
    """Its last worker may have died between the last token and reporting its end."""
    whole = _tokens(_run(engine, Request("a", _prompt(engine), _GREEDY))["a"])
    (progress,) = _run(engine, Request("a", _prompt(engine), _GREEDY, output_ids=whole))["a"]
    assert (progress.token_ids, progress.finish_reason) == ([], FinishReason.LENGTH)


def neighbours_do_not_change_an_answer(engine: EngineProtocol) -> None:
    """More requests than fit at once all get the tokens that each gets alone."""
    requests = [
        Request(f"{number}", _prompt(engine, number), replace(_SAMPLED, seed=number))
        for number in range(min(2 * engine.free_slots, 16))
    ]
    alone = {request.id: _tokens(_run(engine, request)[request.id]) for request in requests}
    together = {name: _tokens(progress) for name, progress in _run(engine, *requests).items()}
    assert together == alone


class _Climb:
    """A constraint: each token is the one before it plus a step, and the output ends after some tokens."""

    def __init__(self, first: int, step: int, count: int, end: int) -> None:
        self.output: list[int] = []
        self._first, self._step, self._count, self._end = first, step, count, end

    @property
    def taken(self) -> int:
        return len(self.output)

    def take(self, token_ids: Iterable[int]) -> None:
        self.output += token_ids

    def fill(self, mask: "NDArray[np.int32]") -> bool:
        allowed = self._first + self._step * self.taken if self.taken < self._count else self._end
        mask[:] = 0
        mask.view("u4")[allowed // 32] = 1 << (allowed % 32)
        return True


class _Latch(_Climb):
    """A constraint that says nothing until some tokens are there; then the output ends."""

    def fill(self, mask: "NDArray[np.int32]") -> bool:
        return self.taken >= self._count and super().fill(mask)


def a_constraint_decides_the_tokens(engine: EngineProtocol) -> None:
    """It is told each token once and in order, also those of an earlier engine; its neighbour has no part."""
    engine.end_also_at([15])
    params = replace(_SAMPLED, max_tokens=32, ignore_eos=False)
    beside = Request("beside", _prompt(engine), _SAMPLED)
    alone = _tokens(_run(engine, beside)["beside"])
    expected = [1, 3, 5, 7, 9, 15]
    for known in range(5):
        constraint = _Climb(1, 2, 5, 15)
        request = Request("a", _prompt(engine), params, expected[:known], constraint=constraint)
        progress = _run(engine, request, beside)
        assert _tokens(progress["a"]) == expected[known:], f"after {known} tokens"
        assert progress["a"][-1].finish_reason is FinishReason.STOP
        assert constraint.output in (expected[:-1], expected)
        assert _tokens(progress["beside"]) == alone


def a_constraint_may_begin_late(engine: EngineProtocol) -> None:
    """Until it rules tokens out, the output is what it is without it."""
    free = _tokens(_run(engine, Request("a", _prompt(engine), _SAMPLED))["a"])[:4]
    end = next(token_id for token_id in range(1, 32) if token_id not in free)
    engine.end_also_at([end])
    params = replace(_SAMPLED, max_tokens=32, ignore_eos=False)
    for known in range(4):
        constraint = _Latch(0, 0, 4, end)
        request = Request("a", _prompt(engine), params, free[:known], constraint=constraint)
        progress = _run(engine, request)["a"]
        assert _tokens(progress) == [*free[known:], end], f"after {known} tokens"
        assert progress[-1].finish_reason is FinishReason.STOP


def a_token_can_be_made_to_end_texts(engine: EngineProtocol) -> None:
    """`end_also_at` ends a text with that token, unless the request ignores such ends."""
    whole = _tokens(_run(engine, Request("a", _prompt(engine), _GREEDY))["a"])
    engine.end_also_at([whole[-1]])
    assert whole[-1] in engine.model_info.eos_token_ids
    ends = replace(_GREEDY, ignore_eos=False)
    progress = _run(engine, Request("a", _prompt(engine), ends))["a"]
    assert progress[-1].finish_reason is FinishReason.STOP
    assert _tokens(_run(engine, Request("a", _prompt(engine), _GREEDY))["a"]) == whole


def a_prompt_gets_its_vector_or_is_refused(engine: EngineProtocol) -> None:
    """An engine that can pool returns one vector at the end; another refuses the request and is as it was."""
    room, size = (engine.free_slots, engine.free_tokens), engine.model_info.hidden_size
    asked = Request("a", _prompt(engine), _GREEDY, pooling=Pooling())
    if not size:
        try:
            engine.submit(asked)
        except RequestError:
            assert (engine.free_slots, engine.free_tokens) == room
            return
        raise AssertionError("a request to be pooled is taken, though the model has no hidden_size")
    beside = Request("b", _prompt(engine, 1), _GREEDY)
    alone = _tokens(_run(engine, beside)["b"])
    got = _run(engine, asked, beside)
    (progress,) = got["a"]
    assert (progress.token_ids, progress.finish_reason) == ([], FinishReason.STOP)
    assert progress.vector is not None
    assert progress.vector.shape == (size,)
    assert _tokens(got["b"]) == alone
    assert (engine.free_slots, engine.free_tokens) == room


CHECKS: tuple[Callable[[EngineProtocol], None], ...] = (
    an_idle_engine_has_all_its_room,
    a_request_gets_its_tokens_and_gives_its_room_back,
    a_running_request_holds_room,
    what_can_not_run_is_refused_alone,
    an_interrupted_answer_continues_with_the_same_tokens,
    an_answer_that_has_ended_already_ends_again,
    neighbours_do_not_change_an_answer,
    a_token_can_be_made_to_end_texts,
    a_prompt_gets_its_vector_or_is_refused,
    a_constraint_decides_the_tokens,
    a_constraint_may_begin_late,
)


def _prompt(engine: EngineProtocol, salt: int = 0) -> list[int]:
    return [(3 + place * (salt + 1)) % engine.model_info.vocab_size for place in range(9)]


def _run(engine: EngineProtocol, *requests: Request) -> dict[str, list[Progress]]:
    """Step until the engine has no more work; return what each request got."""
    for request in requests:
        engine.submit(request)
    got: dict[str, list[Progress]] = {}
    for _ in range(_MOST_STEPS):
        if not engine.has_work:
            engine.check()
            return got
        for progress in engine.step():
            got.setdefault(progress.id, []).append(progress)
        assert engine.free_slots >= 0
    raise AssertionError(f"the engine has work after {_MOST_STEPS} steps")


def _tokens(progress: Iterable[Progress]) -> list[int]:
    return [token_id for each in progress for token_id in each.token_ids]
