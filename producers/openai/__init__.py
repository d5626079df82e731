"""OpenAI's bodies, as jobs and results."""
