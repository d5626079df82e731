"""Which tokens a request's constraint and bad words forbid next, decided here rather than by vLLM.

vLLM's grammars begin with the output that vLLM itself knows, so they can't continue one. Here the answer runs
without a mask, and each token is checked. One that is forbidden is dropped, and asked for again with a mask:

- Greedy decoding chooses the same token either way: a best token that is allowed is the best of those
  allowed.
- So does sampling: taking an allowed token with its probability, and otherwise one of the allowed in
  proportion, is choosing among the allowed in proportion.
- Only parameters that truncate would cut off other tokens than they do after the mask. With them every token
  is asked for with its mask.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..parameters import COLUMNS, ONLY, SamplingParams
from ..request import TokenConstraint
from .asking import NEVER

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Forbidden:
    """What may not come next in one request's output."""

    def __init__(
        self, params: SamplingParams, constraint: TokenConstraint | None, vocab: int, ends: frozenset[int]
    ) -> None:
        self._params, self._constraint, self._vocab, self._ends = params, constraint, vocab, ends

    @property
    def any(self) -> bool:
        """Whether this request forbids anything at all."""
        return self._constraint is not None or bool(self._params.bad_words)

    @property
    def always_masked(self) -> bool:
        """Whether dropping tokens would change the distribution, so that each needs its mask."""
        params = self._params
        truncates = any(
            getattr(params, name) != column.neutral
            for name, column in COLUMNS.items()
            if column.work == "truncation"
        )
        return self.any and params.temperature > 0 and truncates

    def allowed(self, output_ids: Sequence[int]) -> "NDArray[np.bool_]":
        """Whether each token of the vocabulary may follow the output, bool [vocab]."""
        may = np.ones(self._vocab, np.bool_)
        if self._constraint is not None:
            mask = np.zeros(-(-self._vocab // 32), np.int32)
            self._constraint.take(output_ids[self._constraint.taken :])
            if self._constraint.fill(mask):
                may = np.unpackbits(mask.view(np.uint8), bitorder="little")[: self._vocab].astype(np.bool_)
        for word in self._params.bad_words:
            head = word[:-1]
            if tuple(output_ids[len(output_ids) - len(head) :]) == head:
                may[word[-1]] = False
        only = list(getattr(self._params, ONLY))
        if only:
            listed = np.zeros(self._vocab, np.bool_)
            listed[only] = True
            may &= listed
        return may

    def masked(self, ask: dict[str, Any], may: "NDArray[np.bool_]") -> dict[str, Any]:
        """The same parameters for one token out of those that may come."""
        (listed,) = may.nonzero()
        if not len(listed):
            raise ValueError("no token may come next")
        ends_only = self._ends.issuperset(listed.tolist())
        ask = ask | {"max_tokens": 1, "min_tokens": 0 if ends_only else min(1, ask["min_tokens"])}
        if len(listed) * 2 < self._vocab:
            return ask | {ONLY: listed.tolist()}
        (others,) = (~may).nonzero()
        bias = ask.get("logit_bias", {}) | dict.fromkeys(others.tolist(), NEVER)
        return ask | {"logit_bias": bias}
