"""The head of a model that scores: one number for a prompt, from its last token's hidden state.

A classification head with one label is one row of weights. So is the comparison of two words at the prompt's
end: softmax over the logits of "no" and "yes" gives "yes" sigmoid(yes - no), and the difference of two logits
is the product with the difference of their rows.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True, frozen=True)
class Scorer:
    """A head of one row.

    Attributes:
        weights: float32 [hidden].
        sigmoid: whether the product is squeezed to between 0 and 1.
    """

    weights: NDArray[np.float32]
    sigmoid: bool = True

    def score(self, hidden: NDArray[np.float32]) -> float:
        """The score of a prompt, from its last token's hidden state, float32 [hidden]."""
        logit = float(np.dot(hidden.astype(np.float64), self.weights.astype(np.float64)))
        if not self.sigmoid:
            return logit
        # Each branch takes the exponential of a number that isn't positive, which can't overflow.
        return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))
