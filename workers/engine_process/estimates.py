"""What a claim expects of jobs that have not been read yet, learned from those that ran here."""

from dataclasses import dataclass

_WEIGHT = 0.05
"""Weight of the newest sample, so that about the last twenty jobs count."""

_MARGIN = 1.15
"""Expecting a little too much costs an idle page; expecting too little costs a preemption."""


@dataclass(slots=True)
class Estimates:
    """Moving averages behind the claim's cost.

    Attributes:
        output_share: generated tokens as a share of `max_tokens`.
        tokens_per_byte: prompt tokens per byte of UTF-8.
    """

    # Before anything is known, assume that every job uses its max_tokens and that a token is two bytes. Both
    # are on the safe side for text; a preemption costs more than an idle page.
    output_share: float = 1.0
    tokens_per_byte: float = 0.5

    def note_output(self, tokens: int, max_tokens: int) -> None:
        """Learn from a job that ended by itself after `tokens`."""
        if not max_tokens:  # it wanted nothing but its prompt's log-probabilities
            return
        self.output_share += _WEIGHT * (min(tokens / max_tokens, 1.0) - self.output_share)

    def note_prompt(self, tokens: int, prompt_bytes: int) -> None:
        """Learn that a prompt of `prompt_bytes` has `tokens`."""
        if prompt_bytes:
            self.tokens_per_byte += _WEIGHT * (tokens / prompt_bytes - self.tokens_per_byte)

    @property
    def output_ratio(self) -> float:
        """The share of `max_tokens` to reserve for a job."""
        return min(1.0, self.output_share * _MARGIN)

    @property
    def prompt_ratio(self) -> float:
        """Tokens to reserve per byte of prompt."""
        return self.tokens_per_byte * _MARGIN
