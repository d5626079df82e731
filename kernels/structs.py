"""What kernel calls carry, where it is more than a few tensors."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(slots=True, frozen=True)
class SamplingTable:
    """What sequences ask of sampling, by batch row (R of them), on the logits' device.

    A parameter has its name from `engine/parameters.py`.

    Attributes:
        temperature: float32 [R]; 0 takes the best token.
        top_k: int32 [R]; 0 for all.
        top_p: float32 [R], over 0; 1 for all.
        min_p: float32 [R]; 0 for all.
        presence_penalty, frequency_penalty: float32 [R]; subtracted once and once an occurrence, for tokens
            of the output.
        repetition_penalty: float32 [R]; divides positive and multiplies negative logits of known tokens.
        seed: int64 [R].
        tokens: int32 or int64 [R, L], the known tokens; a view of the columns in use is as good.
        lengths: int64 [R], how many are known, which is the position of the token to draw.
        prompt_lengths: int64 [R], how many of them are the prompt's.
        bias_ids: int32 [R, N], tokens whose logit is changed; -1 where there is none.
        bias_values: float32 [R, N], what is added; -inf forbids the token. An id may stand in two entries.
        bias_until: int64 [R, N]; an entry holds while the length is below it (a minimum length).
        mask_of: int32 [R], which of `masks` a row has; -1 for none. None where no row needs one.
        masks: bool [M, V], whether a token is allowed.
        logprobs: int32 [R], how many most likely tokens are wanted; -1 for no log-probabilities.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    presence_penalty: Tensor
    frequency_penalty: Tensor
    repetition_penalty: Tensor
    seed: Tensor
    tokens: Tensor
    lengths: Tensor
    prompt_lengths: Tensor
    bias_ids: Tensor
    bias_values: Tensor
    bias_until: Tensor
    logprobs: Tensor
    mask_of: Tensor | None = None
    masks: Tensor | None = None


@dataclass(slots=True, frozen=True)
class SampleNeeds:
    """Which work a step has: known to the host from its requests, and fixed when a graph is captured.

    Attributes:
        penalties, bias, truncation, mask: some row asks for it. False skips the work of all rows.
        logprobs: the most that a row asks for; None when none does.
    """

    penalties: bool = True
    bias: bool = True
    truncation: bool = True
    logprobs: int | None = None
    mask: bool = False


@dataclass(slots=True, frozen=True)
class Cuts:
    """What rows keep: scaled logits above `least`, and those that equal it, of tokens from the id `first` on.

    Attributes:
        least: float32 [S]; -inf where a row keeps all.
        first: int32 [S].
    """

    least: Tensor
    first: Tensor


@dataclass(slots=True, frozen=True)
class Sampled:
    """New tokens, on the logits' device.

    Attributes:
        tokens: int64 [S]; -1 where there is none to choose, since a logit is NaN or +inf, or none is finite.
        logprobs: float32 [S], of those tokens; None where no row asked, arbitrary in rows that did not, or
            that have no token.
        top_ids: int64 [S, n], the most likely tokens, best first, lower ids first among equals; -1 past what
            the row asked for.
        top_logprobs: float32 [S, n]; -inf past what the row asked for.
    """

    tokens: Tensor
    logprobs: Tensor | None
    top_ids: Tensor | None
    top_logprobs: Tensor | None
