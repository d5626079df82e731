"""What can go wrong in the engine, as exceptions a caller can tell apart."""


class ModelError(ValueError):
    """The model can't be loaded; the message says what is wrong with it and what is supported."""


class RequestError(ValueError):
    """A request that could never run; nothing else in the engine is touched.

    Attributes:
        field: which of the request's fields is wrong.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
