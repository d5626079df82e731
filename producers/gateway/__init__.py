"""The HTTP gateway: OpenAI's API over the queue, served by a process without state of its own."""
