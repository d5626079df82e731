"""What can go wrong in the engine, as exceptions that a caller can tell apart."""

_OUT_OF_MEMORY = (
    *("can't allocate memory", "not enough memory", "could not create a memory object"),
    *("out of memory", "CUBLAS_STATUS_ALLOC_FAILED"),
)
"""What torch's CPU allocator and oneDNN say; then CUDA itself, through torch or Triton, and cuBLAS."""


class ModelError(ValueError):
    """The model can't be loaded; the message says what is wrong with it and what is supported."""


class UnknownEngine(ModelError):
    """There is no engine of this name; the message lists those that exist."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device or the machine ran out of memory for a step, which can be retried with less.

    torch's GPU allocator raises an exception class of its own, which is recognised by name so that asking
    doesn't import torch; everything else raises RuntimeError.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    message = str(error)
    return isinstance(error, RuntimeError) and any(sign in message for sign in _OUT_OF_MEMORY)


def is_of_the_device(error: Exception) -> bool:
    """Whether a GPU reports an error, after which everything computed on it fails too."""
    message = str(error)
    return not is_out_of_memory(error) and ("CUDA error" in message or "Triton Error" in message)


class ServerLost(RuntimeError):
    """An engine's server is gone, hangs, or isn't the one that was loaded: the engine can't continue."""


class RequestError(ValueError):
    """A request that could never run; the other requests in the engine are unaffected.

    Attributes:
        field: which of the request's fields is wrong.
        reason: what is wrong with it.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field, self.reason = field, reason
