"""What can go wrong in the engine, as exceptions a caller can tell apart."""

_OUT_OF_MEMORY = (
    *("can't allocate memory", "not enough memory", "could not create a memory object"),
    *("out of memory", "CUBLAS_STATUS_ALLOC_FAILED"),
)
"""What torch's CPU allocator and oneDNN say; then CUDA itself, through torch or Triton, and cuBLAS."""


class ModelError(ValueError):
    """The model can't be loaded; the message says what is wrong with it and what is supported."""


class UnknownEngine(ModelError):
    """There is no engine of the name that was asked for; the message lists those that exist."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device or the machine had no memory for a step: it can be tried with less.

    torch has a class of its own for what its GPU allocator lacks, which is told by its name, so that nobody
    imports torch to ask; all others raise RuntimeError.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    message = str(error)
    return isinstance(error, RuntimeError) and any(sign in message for sign in _OUT_OF_MEMORY)


def is_of_the_device(error: Exception) -> bool:
    """Whether a GPU reports an error: whatever is computed on it from then on fails too."""
    message = str(error)
    return not is_out_of_memory(error) and ("CUDA error" in message or "Triton Error" in message)


class RequestError(ValueError):
    """A request that could never run; nothing else in the engine is touched.

    Attributes:
        field: which of the request's fields is wrong.
        reason: what is wrong with it.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field, self.reason = field, reason
