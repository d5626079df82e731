"""How much of its prompts a step may compute so that running streams get their next token in time.

A step's time is modelled as a sum of five parts: a fixed one, and one each per decode, per token that decodes
attend to, per prompt token, and per token that prompt tokens attend to. Because of the last, the same number
of tokens doesn't always take the same time: late in a long prompt they cost several times as much as at its
start. The sizes of the parts are learnt from measured steps:

- By least squares of relative errors, forgetting old steps exponentially. Sizes are never negative, and a
  size about which recent steps say nothing stays as it was: projected Gauss-Seidel, started from the last
  solution, gives both.
- One late step is an accident and counts only up to the margin. Two in a row mean that the machine's speed
  has changed: everything learnt is scaled at once.
- Predictions are multiplied by a margin of some mean deviations. How many depends on the share of steps that
  exceed it, so that fewer than one in a hundred is late, however errors are distributed.
- No step has more than twice as many prompt tokens as recent ones: sizes that were not measured lately are
  approached, not extrapolated to. Late in a long prompt all steps are alike, and their time could be
  attributed either to their tokens or to what these attend to; the first steps of the next prompt decide.

Nothing is limited while no sequence decodes, since none would be held up. Otherwise the first prompt of a
step gets a few tokens even if there is no time for them, so that no prompt starves when the objective can't
be met.
"""

from dataclasses import dataclass, field
from math import inf, sqrt

MIN_CHUNK_TOKENS = 16
"""Least tokens of a prompt in a step; fewer cost nearly as much, because weights and keys are read anyway."""

_MEMORY = 0.97
"""Factor on a step's weight with each later step: about thirty steps (1 / 0.03) are remembered. At 20 ms each
that is half a second, as fast as a CPU's clock changes, and enough to tell five parts apart."""

_FORGOTTEN = 1e-12
"""Weight of remembered steps below which they no longer say anything about a part."""

_SWEEPS = 4
"""Gauss-Seidel sweeps after a step; few, because they start from the last solution, which is nearly right."""

_FIRST_TOKENS = 2 * MIN_CHUNK_TOKENS
"""Prompt tokens in a step beside streams, as long as nothing is known about the machine."""

_TREND = 0.9
"""Factor on the largest number of tokens in earlier steps, with each later step."""

_LATE_SHARE = 0.004
"""Share of steps that may exceed the margin: the objective is one in a hundred, with room for accidents."""

_LATE_STEP = 1.1
"""Factor on the margin with each late step."""


@dataclass(slots=True)
class Load:
    """What a step computes.

    Attributes:
        decodes: sequences that get their next token, and `decode_context` the tokens they attend to.
        prompt_tokens: tokens of prompt chunks, and `prompt_context` the tokens they attend to, summed over
            them.
    """

    decodes: int = 0
    decode_context: int = 0
    prompt_tokens: int = 0
    prompt_context: float = 0.0

    @property
    def parts(self) -> tuple[float, ...]:
        """How often each part of the cost occurs in the step."""
        return 1.0, self.decodes, self.decode_context, self.prompt_tokens, self.prompt_context


@dataclass(slots=True)
class StepCost:
    """Predicts from a step's load how long it takes.

    Attributes:
        sizes: seconds of each part.
    """

    sizes: list[float] = field(default_factory=lambda: [0.0] * 5)
    _products: list[list[float]] = field(default_factory=lambda: [[0.0] * 5 for _ in range(5)])
    _targets: list[float] = field(default_factory=lambda: [0.0] * 5)

    def predict(self, load: Load) -> float:
        """The step's time in seconds; 0 if nothing is known yet."""
        return sum(size * part for size, part in zip(self.sizes, load.parts, strict=True))

    def learn(self, load: Load, seconds: float) -> None:
        """Learn that a step of this load took this many seconds."""
        # Divided by its seconds, the step's equation is sum(size * part) = 1, and what is left over a
        # relative error: a step of 200 ms that is 10 % off counts as much as one of 20 ms that is.
        parts = [part / seconds for part in load.parts]
        for i, part in enumerate(parts):
            row = self._products[i]
            for j, other in enumerate(parts):
                row[j] = _MEMORY * row[j] + part * other
            self._targets[i] = _MEMORY * self._targets[i] + part
        for _ in range(_SWEEPS):
            self._sweep()

    def _sweep(self) -> None:
        sizes = self.sizes
        for i, row in enumerate(self._products):
            # Otherwise its weight is forgotten, or it never was in a step: dividing would only blow up noise.
            if row[i] > _FORGOTTEN:
                explained = sum(product * size for product, size in zip(row, sizes, strict=True))
                # The best value of this one while the others stand, cut off at 0: a negative cost would make
                # the pacer expect that more tokens take less time.
                sizes[i] = max(0.0, sizes[i] + (self._targets[i] - explained) / row[i])

    def scale(self, factor: float) -> None:
        """Adapt to a machine that is slower by this factor than when it was measured."""
        self.sizes = [size * factor for size in self.sizes]
        # What was remembered as 1/s and 1/s² of the old machine, as if it had been measured on the new one.
        self._targets = [target / factor for target in self._targets]  # errors remain relative
        self._products = [[product / factor**2 for product in row] for row in self._products]


@dataclass(slots=True)
class Margin:
    """The factor by which a step is expected to exceed its prediction at most."""

    _spread: float = 0.1
    _deviations: float = 4.0

    @property
    def factor(self) -> float:
        """The factor to multiply a prediction by."""
        return 1.0 + self._deviations * self._spread

    def learn(self, ratio: float) -> None:
        """Learn that a step took `ratio` times as long as predicted."""
        late = ratio > self.factor
        # Balanced when 0.4 % are late: each late step raises it by 9.96 %, each other one lowers it by 0.04
        # %.
        self._deviations *= _LATE_STEP ** (late - _LATE_SHARE)
        # Within bounds, so that no quiet hour makes it careless, and a bad one is over at some time: from 40
        # down to 4 takes 6,000 steps.
        self._deviations = min(40.0, max(1.5, self._deviations))
        deviation = min(abs(ratio - 1.0), 5.0 * self._spread)  # one accident isn't a trend
        self._spread = max(0.005, self._spread + 0.02 * (deviation - self._spread))


@dataclass(slots=True)
class Pacer:
    """Limits the prompt tokens of a step, and learns from each step for the next.

    For each step, call `begin`, then `take` for every prompt in turn, and `measured` when its tokens are
    there.

    Attributes:
        objective_s: longest time from a stream's token to its next.
        load: what the step that is being planned contains so far.
        cost: predicts what a step costs; `margin` says how certain that is.
    """

    objective_s: float
    load: Load = field(default_factory=Load)
    cost: StepCost = field(default_factory=StepCost)
    margin: Margin = field(default_factory=Margin)
    _most_tokens: int = _FIRST_TOKENS
    _last_ratio: float = 1.0
    _last_end_s: float = -inf

    def begin(self, decodes: int, context_tokens: int) -> None:
        """Start planning a step with this many decodes, which attend to this many tokens."""
        self.load = Load(decodes, context_tokens)

    def take(self, computed: int, tokens: int) -> int:
        """Take up to `tokens` of a prompt that has `computed` in its pages; return how many fit the step."""
        fit = tokens if self.load.decodes == 0 else min(tokens, self._fit(computed))
        # Less than a chunk worth having: nothing, unless the step has no prompt yet (then the least there
        # is).
        if fit < min(tokens, MIN_CHUNK_TOKENS):
            fit = 0 if self.load.prompt_tokens else min(tokens, MIN_CHUNK_TOKENS)
        self.load.prompt_tokens += fit
        # Tokens computed + 1 to computed + fit, each of which attends to all up to itself: 100 after 1,000
        # are 100 * 1,050.5.
        self.load.prompt_context += fit * (computed + (fit + 1) / 2)
        return fit

    def _fit(self, computed: int) -> int:
        """How many tokens of a prompt there is time for, after those taken already."""
        left_s = self.objective_s / self.margin.factor - self.cost.predict(self.load)
        most = self._most_tokens - self.load.prompt_tokens
        if left_s <= 0 or most <= 0:
            return 0
        *_, token_s, attended_s = self.cost.sizes
        # n tokens cost n * linear + n² * attended_s / 2: the root, in the form that has no 0 / 0.
        # With 30 ms left, 50 µs a token and 20 ns a token attended to, 541 tokens of a prompt's start fit;
        # after 8,000 of its tokens, when linear is 210 µs, 141.
        linear = token_s + attended_s * (computed + 0.5)
        root = linear + sqrt(linear * linear + 2 * attended_s * left_s)
        return min(most, int(2 * left_s / root)) if root > 0 else most

    def measured(self, load: Load, ended_s: float) -> None:
        """Learn that the tokens of a step with this load were there at `ended_s`, on any monotonic clock.

        The time between two tokens of a stream is the time between the ends of two steps, so that is what is
        learnt, and only from steps that streams waited for.
        """
        # The first step's time is infinite, as there is no end before it, and is passed over below.
        took_s, self._last_end_s = ended_s - self._last_end_s, ended_s
        if load.decodes and 0 < took_s < inf:
            self._learn(load, took_s)
            if load.prompt_tokens:
                self._most_tokens = max(
                    2 * load.prompt_tokens, int(_TREND * self._most_tokens), _FIRST_TOKENS
                )

    def _learn(self, load: Load, took_s: float) -> None:
        predicted = self.cost.predict(load)
        if predicted > 0:
            ratio, before, most = took_s / predicted, self._last_ratio, self.margin.factor
            self._last_ratio = ratio
            self.margin.learn(ratio)
            # Two in a row beyond the margin, on the same side: the smaller deviation of both is what is
            # certain.
            if ratio > most and before > most:
                self._change_speed(min(ratio, before))
            elif ratio * most < 1 and before * most < 1:
                self._change_speed(max(ratio, before))
            else:
                took_s = min(took_s, predicted * most)
        self.cost.learn(load, took_s)

    def _change_speed(self, factor: float) -> None:
        self.cost.scale(factor)
        self._last_ratio = 1.0
