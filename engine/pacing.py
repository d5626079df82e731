"""How much of its prompts a step may compute so that running streams get their next token in time.

A step's seconds are taken to be a sum of five parts: one fixed, one for each decode, for each token that
decodes attend to, for each prompt token, and for each token that prompt tokens attend to. The last is why
an equal number of tokens is no equal time: late in a long prompt they cost several times what they did at
its start. The parts' sizes are learnt from the steps as they are measured:

- Least squares of relative errors, old steps forgotten exponentially. Sizes are never negative, and one that
  no recent step tells of stays as it was: projected Gauss-Seidel from the last solution gives both.
- One late step is an accident of the machine and counts only up to the margin. Two in a row are a machine
  of another speed: all that was learnt is scaled at once.
- What is predicted is multiplied by a margin of some mean deviations. How many follows the share of steps
  that exceed it, whatever the errors' distribution, so that fewer than one in a hundred is late.
- No step has more than twice the prompt tokens of those shortly before it: what was not measured lately is
  approached, not extrapolated to. Late in a long prompt all steps are alike, and their time could be put down
  to their tokens or to what these attend to; the first steps of the next prompt tell.

While nobody decodes there is nothing to hold up and nothing is limited. Otherwise the first prompt of a step
gets some tokens even when there is no time for them: no prompt starves where the objective can't be met.
"""

from dataclasses import dataclass, field
from math import inf, sqrt

MIN_CHUNK_TOKENS = 16
"""Of a prompt in a step: fewer cost nearly as much, because weights and keys are read for them too."""

_MEMORY = 0.97
"""What a measured step still counts after the next one: about thirty steps (1 / 0.03) are remembered. At 20
ms a step that is half a second: as quick as a clock's changes, and enough to tell five parts apart."""

_FORGOTTEN = 1e-12
"""Weight of remembered steps below which they say nothing more of a part."""

_SWEEPS = 4
"""Of Gauss-Seidel after a step: it starts from the last solution, which is nearly right."""

_FIRST_TOKENS = 2 * MIN_CHUNK_TOKENS
"""Of prompts in a step, beside streams on a machine that nothing is known of."""

_TREND = 0.9
"""What the most tokens of earlier steps count after the next one."""

_LATE_SHARE = 0.004
"""Steps that may exceed the margin: one in a hundred is the objective's, the rest is for accidents."""

_LATE_STEP = 1.1
"""What one late step multiplies the margin by."""


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
        """How often each part of a step's cost is in it."""
        return 1.0, self.decodes, self.decode_context, self.prompt_tokens, self.prompt_context


@dataclass(slots=True)
class StepCost:
    """Predicts a step's seconds from its load.

    Attributes:
        sizes: seconds of each part.
    """

    sizes: list[float] = field(default_factory=lambda: [0.0] * 5)
    _products: list[list[float]] = field(default_factory=lambda: [[0.0] * 5 for _ in range(5)])
    _targets: list[float] = field(default_factory=lambda: [0.0] * 5)

    def predict(self, load: Load) -> float:
        """Seconds of a step; 0 while nothing is known."""
        return sum(size * part for size, part in zip(self.sizes, load.parts, strict=True))

    def learn(self, load: Load, seconds: float) -> None:
        """A step of this load took so long."""
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
            if row[i] > _FORGOTTEN:
                explained = sum(product * size for product, size in zip(row, sizes, strict=True))
                sizes[i] = max(0.0, sizes[i] + (self._targets[i] - explained) / row[i])

    def scale(self, factor: float) -> None:
        """The machine is so many times slower than when it was measured."""
        self.sizes = [size * factor for size in self.sizes]
        self._targets = [target / factor for target in self._targets]  # errors stay relative ones
        self._products = [[product / factor**2 for product in row] for row in self._products]


@dataclass(slots=True)
class Margin:
    """How far above its prediction a step is expected to end at most, as a factor."""

    _spread: float = 0.1
    _deviations: float = 4.0

    @property
    def factor(self) -> float:
        """What to multiply a prediction by."""
        return 1.0 + self._deviations * self._spread

    def learn(self, ratio: float) -> None:
        """A step took `ratio` times what was predicted."""
        late = ratio > self.factor
        # In balance where 0.4 % are late: each of these raises by 9.96 %, each other lowers by 0.04 %.
        self._deviations *= _LATE_STEP ** (late - _LATE_SHARE)
        self._deviations = min(40.0, max(1.5, self._deviations))
        deviation = min(abs(ratio - 1.0), 5.0 * self._spread)  # one accident does not make a spread
        self._spread = max(0.005, self._spread + 0.02 * (deviation - self._spread))


@dataclass(slots=True)
class Pacer:
    """Limits the prompt tokens of a step; tells what it learnt from one step to the next.

    For each step: `begin`, `take` for every prompt in turn, and `measured` when its tokens are there.

    Attributes:
        objective_s: longest time from a stream's token to its next.
        load: what has been taken into the step that is being planned.
        cost: what a step costs, and `margin` how sure that is.
    """

    objective_s: float
    load: Load = field(default_factory=Load)
    cost: StepCost = field(default_factory=StepCost)
    margin: Margin = field(default_factory=Margin)
    _most_tokens: int = _FIRST_TOKENS
    _last_ratio: float = 1.0
    _last_end_s: float = -inf

    def begin(self, decodes: int, context_tokens: int) -> None:
        """Start planning a step, with these decodes in it and the tokens that they attend to."""
        self.load = Load(decodes, context_tokens)

    def take(self, computed: int, tokens: int) -> int:
        """Take up to `tokens` of a prompt, `computed` of which are in its pages; how many fit the step."""
        fit = tokens if self.load.decodes == 0 else min(tokens, self._fit(computed))
        if fit < min(tokens, MIN_CHUNK_TOKENS):
            fit = 0 if self.load.prompt_tokens else min(tokens, MIN_CHUNK_TOKENS)
        self.load.prompt_tokens += fit
        self.load.prompt_context += fit * (computed + (fit + 1) / 2)
        return fit

    def _fit(self, computed: int) -> int:
        """Tokens of a prompt that there is time for, after those taken already."""
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
        """The tokens of a step with this load were there at `ended_s`, on any steady clock.

        Between two tokens of a stream lies all that happens between the ends of two steps, so that is what
        is learnt from, and only of steps that streams waited for.
        """
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
