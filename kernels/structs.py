"""What kernel calls carry where it is many tensors: where keys lie, whose rows are whose, options.

T are query tokens, B sequences, Hq and Hkv heads of queries and of keys, D a head's size, P a table's width.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(slots=True, frozen=True)
class PagedKV:
    """The paged cache of one layer.

    Attributes:
        keys: [pages, Hkv, page_size, D], contiguous, of the activations' dtype or float8_e4m3fn.
        values: like the keys.
        key_scale: a float8 cache holds the keys divided by this, no further from zero than 448.
        value_scale: likewise for the values.
    """

    keys: Tensor
    values: Tensor
    key_scale: float = 1.0
    value_scale: float = 1.0


@dataclass(slots=True, frozen=True)
class RaggedRows:
    """Whose query rows are whose, and where the keys of each sequence lie.

    Attributes:
        block_tables: int32 [B, P] pages of each sequence, in order; entries past its context are not read,
            the others must lie in the cache: compiled paths do not check them.
        query_starts: int32 [B + 1]; sequence b owns the query rows query_starts[b] to query_starts[b + 1].
        context_lens: int32 [B] tokens in the cache, this step's included; on a GPU, rows that only pad the
            batch have 0 and become zeros.
        max_rows: no sequence has more query rows, if the caller knows; 1 spares a GPU the search for a row's
            sequence.
        max_context: no sequence has more tokens in the cache, if the caller knows better than the width of
            block_tables; a GPU decides by it among how many programs to divide a sequence.
    """

    block_tables: Tensor
    query_starts: Tensor
    context_lens: Tensor
    max_rows: int | None = None
    max_context: int | None = None


@dataclass(slots=True, frozen=True)
class AttentionOptions:
    """How scores are made.

    Attributes:
        scale: factor on q·k.
        sliding_window: a query sees this many positions, its own included; 0 is no limit.
        soft_cap: scores become soft_cap * tanh(score / soft_cap); 0 leaves them.
        deterministic: on a GPU, a row's bits depend on its own sequence alone, not on its neighbours and not
            on the chunks it came in, which costs time. On the CPU that always holds.
    """

    scale: float
    sliding_window: int = 0
    soft_cap: float = 0.0
    deterministic: bool = False


@dataclass(slots=True, frozen=True)
class Heads:
    """What a fused projection's columns are: Hq query heads, then Hkv key heads, then Hkv value heads.

    Attributes:
        queries: Hq.
        keys: Hkv.
        q_norm: [D] weight of an RMS norm over each query head, before the rotation.
        k_norm: likewise for the key heads.
        eps: of these norms.
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
class Thresholds:
    """What rows keep: scaled logits above `least`, and those that equal it, of tokens from the id `first` on.

    Attributes:
        least: float32 [S]; -inf where a row keeps all.
        first: int32 [S].
    """

    least: Tensor
    first: Tensor


@dataclass(slots=True, frozen=True)
class SampledTensors:
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
