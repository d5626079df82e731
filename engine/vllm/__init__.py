"""vLLM as an engine: its server generates, token ids go in and come out."""
