class EmbeddedRedisError(RuntimeError):
    """The server could not be found or started; the message says why and what to do."""
