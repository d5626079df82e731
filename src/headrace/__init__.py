"""headrace: durable LLM generation behind a queue."""

__version__ = "0.1.0"
