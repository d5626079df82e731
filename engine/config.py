"""The engine's settings, validated when made."""

from dataclasses import dataclass
from math import inf
from typing import Literal

DType = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["int8"]
KVDType = Literal["fp8"]


@dataclass(slots=True, frozen=True)
class EngineServer:
    """The server of an engine that has one, like vLLM.

    Attributes:
        url: that of a running server; None starts one.
        python: the Python that the server's package is installed for; None is the one that runs this.
        args: flags for the server that is started.
        stall_s: how long the server may send no token, though requests run, before it is given up.
    """

    url: str | None = None
    python: str | None = None
    args: tuple[str, ...] = ()
    stall_s: float = 120.0


@dataclass(slots=True, frozen=True)
class EngineConfig:
    """What the engine loads, how large it may be and where it runs.

    Attributes:
        model: a local folder or a Hugging Face Hub name.
        device: `cpu`, `cuda` or `cuda:N`.
        dtype: `auto` uses the checkpoint's own type.
        quantization: `int8` stores the weights of all products, including the last, as bytes with one factor
            per output, and rounds the inputs of products likewise, each token's separately: half the memory
            and up to twice the speed (docs/performance.md has both, and the cost in accuracy). Only for
            bfloat16 on a CPU.
        kv_dtype: `fp8` stores keys and values as 8-bit floats (e4m3, at most 448, never scaled): half the
            memory of bfloat16, with 3 bits of mantissa. None stores them in the activations' type. Not for a
            CPU's compiled bfloat16 step.
        deterministic: give every request the same logits, bit for bit, whatever else is in its steps, in
            which chunks its prompt is computed, and whether it was preempted, resumed or found in the prefix
            cache. docs/performance.md has the cost. On another kind of processor or in another version, bits
            may differ.
        max_batch_size: maximum number of sequences in one step.
        max_step_tokens: maximum number of tokens computed in one step, decodes and prompt chunks together;
            None means 512 on a CPU and 2048 on a GPU, beyond which more rows hardly make products faster.
        token_time_objective_s: longest time from a running sequence's token to its next; prompts get what
            that leaves of each step. With None they may use all of `max_step_tokens`.
        max_context_tokens: maximum length of prompt + output; None means the model's own limit.
        prefix_cache: keep full pages for later prompts that begin the same way.
        threads: CPU threads for the step; None leaves torch's default.
        overlap: launch each step before the last one's tokens are read, so that the device doesn't wait for
            the host; None does so on a GPU.
        cuda_graphs: capture decode steps on a GPU; without it the start is faster and every step slower.
        max_adapters: how many LoRA adapters are kept in memory, and can be computed with in one step; 0 for
            none.
        adapter_memory_bytes: how much memory they may take together.
        gpu_reserve_bytes: memory that KV pages leave free on a GPU, beyond what a measured step takes; None
            leaves 3 % of the GPU's memory, at least 512 MiB.
        classifier_token_ids: the tokens for no and yes, if the model scores by how likely they come next.
        server: the server of an engine that has one; headrace's own has none.
    """

    model: str
    device: str = "cpu"
    dtype: DType = "auto"
    quantization: Quantization | None = None
    page_size: int = 16
    num_pages: int | None = None
    kv_memory_bytes: int | None = None
    kv_dtype: KVDType | None = None
    deterministic: bool = False
    max_batch_size: int = 64
    max_step_tokens: int | None = None
    token_time_objective_s: float | None = None
    max_context_tokens: int | None = None
    prefix_cache: bool = True
    threads: int | None = None
    overlap: bool | None = None
    cuda_graphs: bool = True
    max_adapters: int = 0
    adapter_memory_bytes: int = 1 << 30
    gpu_reserve_bytes: int | None = None
    classifier_token_ids: tuple[int, int] | None = None
    server: EngineServer = EngineServer()

    def __post_init__(self) -> None:
        if self.quantization not in {None, "int8"}:
            raise ValueError(f"quantization is {self.quantization!r}; it must be 'int8' or None")
        if self.kv_dtype not in {None, "fp8"}:
            raise ValueError(
                f"kv_dtype is {self.kv_dtype!r}; it must be 'fp8', or None for the activations' type"
            )
        for name in ("page_size", "max_batch_size"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.token_time_objective_s is not None and not 0 < self.token_time_objective_s < inf:
            raise ValueError(
                f"token_time_objective_s is {self.token_time_objective_s}; it must be positive and finite, "
                "or None for no objective"
            )
        for name in ("max_step_tokens", "num_pages", "kv_memory_bytes", "max_context_tokens", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1, or None for the default")
        if self.max_adapters < 0:
            raise ValueError(f"max_adapters is {self.max_adapters}; it must be at least 0")
        if self.adapter_memory_bytes < 1:
            raise ValueError(f"adapter_memory_bytes is {self.adapter_memory_bytes}; it must be at least 1")
        if self.gpu_reserve_bytes is not None and self.gpu_reserve_bytes < 0:
            raise ValueError(
                f"gpu_reserve_bytes is {self.gpu_reserve_bytes}; it must be at least 0, "
                "or None for the default"
            )

    @property
    def step_tokens(self) -> int:
        """`max_step_tokens`, or the device's default if it is None."""
        return self.max_step_tokens or (512 if self.device == "cpu" else 2048)
