"""The HTTP gateway: OpenAI's API over the queue, by a process without state of its own."""
