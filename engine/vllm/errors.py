"""What can go wrong between headrace and a vLLM server."""


class ServerRefused(Exception):
    """The server refuses one request, as it would again: the message is its own.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Interrupted(Exception):
    """An answer broke off, or couldn't begin; it continues if it is asked for again."""
