"""Combinations of which the quick run takes a sample, and the slow tests take the rest."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest


def covering(*choices: Sequence[Any]) -> list[Any]:
    """All combinations of several lists of choices, for `parametrize`.

    Not marked `slow` are as many as the longest list has choices; each choice is in at least one of them.
    """
    quick = {tuple(turn % len(each) for each in choices) for turn in range(max(map(len, choices)))}
    return [
        pytest.param(
            *(each[place] for each, place in zip(choices, places, strict=True)),
            marks=[] if places in quick else [pytest.mark.slow],
        )
        for places in product(*(range(len(each)) for each in choices))
    ]
