"""Steps that keep to an objective for the time of a token, on a simulated machine and in the engine."""

import random
from dataclasses import dataclass, field

import pytest

from headrace.engine import Engine, EngineConfig, Request, SamplingParams
from headrace.engine.pacing import MIN_CHUNK_TOKENS, Load, Pacer

from .conftest import expected, greedy, prompt, run

STREAMS, PROMPT, STEP = 32, 8192, 512


@dataclass
class Machine:
    """Takes so long for a step, more or less.

    Attributes:
        noise: deviation of a step's time, as a part of it.
        accidents: share of steps that take three times as long for no reason of theirs.
        sizes: seconds of a step, a decode, a token that decodes attend to, a prompt token, one attended to.
        speed: what all this is multiplied by at a step.
    """

    noise: float = 0.04
    accidents: float = 0.002
    sizes: tuple[float, ...] = (2e-3, 4e-5, 2e-8, 6e-5, 1.5e-8)
    slower: dict[range, float] = field(default_factory=dict)
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def seconds(self, step: int, load: Load) -> float:
        exact = sum(size * part for size, part in zip(self.sizes, load.parts, strict=True))
        exact *= next((factor for steps, factor in self.slower.items() if step in steps), 1.0)
        accident = 3.0 if self.rng.random() < self.accidents else 1.0
        return exact * accident * self.rng.lognormvariate(0.0, self.noise)


@dataclass
class Run:
    """What came of some steps: their seconds, and the prompt tokens of each."""

    seconds: list[float]
    tokens: list[int]

    @property
    def p99_s(self) -> float:
        return sorted(self.seconds)[len(self.seconds) * 99 // 100]

    @property
    def prompt_rate(self) -> float:
        return sum(self.tokens) / sum(self.seconds)


def steps(machine: Machine, budget: Pacer | int, count: int = 1500, streams: int = STREAMS) -> Run:
    """Decode `streams` while long prompts follow each other; a pacer or a fixed budget of prompt tokens."""
    result, now, computed = Run([], []), 0.0, 0
    for step in range(count):
        context = streams * (300 + step % 500)
        wanted = min(STEP - streams, PROMPT - computed)
        if isinstance(budget, Pacer):
            budget.begin(streams, context)
            taken = budget.take(computed, wanted)
            load = budget.load
        else:
            taken = min(budget, wanted)
            load = Load(streams, context, taken, taken * (computed + (taken + 1) / 2))
        took_s = machine.seconds(step, load)
        now += took_s
        if isinstance(budget, Pacer):
            budget.measured(load, now)
        result.seconds.append(took_s)
        result.tokens.append(taken)
        computed = (computed + taken) % PROMPT
    return result


def best_fixed_rate(objective_s: float, noise: float) -> float:
    """Prompt tokens a second of the best budget that never changes and meets the objective."""
    runs = (steps(Machine(noise), budget, 600) for budget in range(16, STEP - STREAMS, 16))
    return max((each.prompt_rate for each in runs if each.p99_s <= objective_s), default=0.0)


@pytest.mark.parametrize("noise", [0.0, 0.04, 0.1, 0.2])
@pytest.mark.parametrize("objective_s", [0.012, 0.03])
def test_steps_keep_to_the_objective_and_lose_little_to_the_best_fixed_budget(noise, objective_s):
    paced = steps(Machine(noise), Pacer(objective_s), 3000)
    assert paced.p99_s <= objective_s
    assert paced.prompt_rate >= 0.85 * best_fixed_rate(objective_s, noise)


def test_a_few_steps_are_enough_to_learn_a_machine():
    paced = steps(Machine(0.02, accidents=0.0), Pacer(0.03), 20)
    assert max(paced.seconds) <= 0.03
    assert min(paced.seconds[8:]) >= 0.5 * 0.03


@pytest.mark.parametrize("factor", [2.0, 3.0])
def test_a_machine_that_turns_slow_is_late_for_two_steps(factor):
    machine = Machine(accidents=0.0, slower={range(500, 1000): factor})
    paced = steps(machine, Pacer(0.03))
    late = [step for step, took_s in enumerate(paced.seconds) if took_s > 0.03]
    assert {500, 501} <= set(late)
    assert not set(late) & set(range(502, 520))
    assert len(late) <= 10
    assert sum(paced.tokens[1020:1100]) > 1.5 * sum(paced.tokens[900:980])  # and it is fast again later


def test_an_objective_out_of_reach_starves_no_prompt():
    paced = steps(Machine(), Pacer(0.001), 1200)
    assert min(paced.tokens) == MIN_CHUNK_TOKENS
    assert set(paced.tokens[2:]) == {MIN_CHUNK_TOKENS}  # the first were to learn from


def test_more_streams_leave_less_of_a_step_at_once():
    machine, pacer = Machine(0.01, accidents=0.0), Pacer(0.02)
    few = steps(machine, pacer, 200, streams=4)
    steps(machine, pacer, 50, streams=16)
    many = steps(machine, pacer, 200, streams=200)
    assert many.p99_s <= 0.02
    assert max(many.seconds[:10]) <= 1.2 * 0.02
    assert many.prompt_rate < few.prompt_rate


def test_prompts_alone_have_the_whole_step():
    pacer = Pacer(0.001)
    pacer.begin(0, 0)
    assert [pacer.take(0, 300), pacer.take(4000, 212)] == [300, 212]


def test_one_step_that_takes_long_changes_little():
    machine, pacer = Machine(0.02, accidents=0.0), Pacer(0.03)
    steps(machine, pacer, 200)
    load = Load(STREAMS, 300 * STREAMS, 100, 100 * 50.5)
    before = pacer.cost.predict(load)
    pacer.measured(load, 1000.0)
    assert pacer.cost.predict(load) < 1.2 * before


def test_the_objective_is_checked_when_made():
    for value in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="token_time_objective_s"):
            EngineConfig(model="none", token_time_objective_s=value)


@pytest.mark.parametrize("objective_s", [1e-6, 0.004, 10.0])
def test_tokens_are_the_same_whatever_the_objective(make_engine, objective_s):
    lengths = (3, 40, 200, 17, 130, 90)
    engine: Engine = make_engine(token_time_objective_s=objective_s, max_step_tokens=64)
    outputs = run(engine, *(Request(str(length), list(prompt(length)), greedy()) for length in lengths))
    assert outputs == {str(length): expected("llama", prompt(length)) for length in lengths}


def test_a_stream_goes_on_in_every_step_beside_a_long_prompt(make_engine):
    engine: Engine = make_engine(token_time_objective_s=1e-6, max_step_tokens=512)
    engine.submit(Request("stream", list(prompt(10)), greedy(200)))
    engine.step()
    engine.submit(Request("long", list(prompt(400)), SamplingParams(max_tokens=1, temperature=0.0)))
    arrived: list[set[str]] = [set()]
    while "long" not in arrived[-1]:
        arrived.append({progress.id for progress in engine.step()})
    arrived.pop(0)
    assert all("stream" in names for names in arrived)
    assert len(arrived) == 400 // MIN_CHUNK_TOKENS - 1  # the first chunk was larger, to learn from
