"""Structs for kernel calls with many tensors: where keys are, which rows belong to which sequence, options.

T is the number of query tokens, B of sequences, Hq and Hkv of query and key heads; D is a head's size, P a
table's width.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(slots=True, frozen=True)
class PagedKV:
    """The paged cache of one layer.

    Attributes:
        keys: [pages, Hkv, page_size, D], contiguous, in the activations' dtype or float8_e4m3fn.
        values: like the keys.
        key_scale: a float8 cache stores the keys divided by this, clipped to ±448.
        value_scale: likewise for the values.
    """

    keys: Tensor
    values: Tensor
    key_scale: float = 1.0
    value_scale: float = 1.0


@dataclass(slots=True, frozen=True)
class RaggedRows:
    """Which query rows belong to which sequence, and where each sequence's keys are.

    Attributes:
        block_tables: int32 [B, P] pages of each sequence, in order; entries past its context are not read,
            the others must be in the cache, which compiled paths don't check.
        query_starts: int32 [B + 1]; sequence b has the query rows query_starts[b] to query_starts[b + 1].
        context_lens: int32 [B] tokens in the cache, including this step's; on a GPU, rows that only pad the
            batch have 0 and become zeros.
        max_rows: an upper bound of any sequence's query rows, if the caller knows one; 1 saves a GPU the
            search for a row's sequence.
        max_context: an upper bound of any sequence's tokens in the cache, if the caller knows a better one
            than the width of block_tables; a GPU divides a sequence among programs accordingly.
    """

    block_tables: Tensor
    query_starts: Tensor
    context_lens: Tensor
    max_rows: int | None = None
    max_context: int | None = None


@dataclass(slots=True, frozen=True)
class AttentionOptions:
    """How scores are computed.

    Attributes:
        scale: factor on q·k.
        sliding_window: a query sees this many positions, including its own; 0 means no limit.
        soft_cap: scores become soft_cap * tanh(score / soft_cap); 0 leaves them unchanged.
        deterministic: on a GPU, make a row's bits depend only on its own sequence, not on its neighbours or
            on the chunks it came in, which costs time. On the CPU this is always so.
    """

    scale: float
    sliding_window: int = 0
    soft_cap: float = 0.0
    deterministic: bool = False


@dataclass(slots=True, frozen=True)
class Heads:
    """The columns of a fused projection: Hq query heads, then Hkv key heads, then Hkv value heads.

    Attributes:
        queries: Hq.
        keys: Hkv.
        q_norm: [D] weight of an RMS norm over each query head, applied before the rotation.
        k_norm: likewise for the key heads.
        eps: epsilon of these norms.
    """

    queries: int
    keys: int
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None
    eps: float = 1e-6


@dataclass(slots=True, frozen=True)
class SamplingTable:
    """What sequences ask of sampling, by batch row (R of them), on the logits' device.

    A parameter has its name from `engine/parameters.py`.

    Attributes:
        temperature: float32 [R]; 0 chooses the best token.
        top_k: int32 [R]; 0 for all.
        top_p: float32 [R], above 0; 1 for all.
        min_p: float32 [R]; 0 for all.
        presence_penalty, frequency_penalty: float32 [R]; subtracted once, and once per occurrence, for tokens
            of the output.
        repetition_penalty: float32 [R]; divides positive and multiplies negative logits of known tokens.
        seed: int64 [R].
        tokens: int32 or int64 [R, L], the known tokens; may be a view of the columns in use.
        lengths: int64 [R], how many are known, which is also the position of the token to draw.
        prompt_lengths: int64 [R], how many of them belong to the prompt.
        bias_ids: int32 [R, N], tokens whose logit is changed; -1 for none.
        bias_values: float32 [R, N], what is added; -inf forbids the token. An id may occur in two entries.
        bias_until: int64 [R, N]; an entry applies while the length is below this (a minimum length).
        mask_of: int32 [R], which of `masks` a row has; -1 for none. None if no row needs one.
        masks: int32 [M, ceil(V / 32)], a bit a token: 1 if it is allowed.
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
    """Which work a step has, known to the host from its requests, and fixed when a graph is captured.

    Attributes:
        penalties, bias, truncation, mask: whether any row asks for it; if not, it is skipped for all rows.
        logprobs: the largest number that a row asks for; None if none does.
    """

    penalties: bool = True
    bias: bool = True
    truncation: bool = True
    logprobs: int | None = None
    mask: bool = False


@dataclass(slots=True, frozen=True)
class Thresholds:
    """What rows keep: scaled logits above `least`, and those equal to it of tokens from the id `first` on.

    Attributes:
        least: float32 [S]; -inf if a row keeps all.
        first: int32 [S].
    """

    least: Tensor
    first: Tensor


@dataclass(slots=True, frozen=True)
class SampledTensors:
    """New tokens, on the logits' device.

    Attributes:
        tokens: int64 [S]; -1 if there is none to choose, because a logit is NaN or +inf, or none is finite.
        logprobs: float32 [S], of those tokens; None if no row asked for them; arbitrary in rows that didn't,
            or that have no token.
        top_ids: int64 [S, n], the most likely tokens, best first, among equals lower ids first; -1 beyond
            what the row asked for.
        top_logprobs: float32 [S, n]; -inf beyond what the row asked for.
    """

    tokens: Tensor
    logprobs: Tensor | None
    top_ids: Tensor | None
    top_logprobs: Tensor | None
