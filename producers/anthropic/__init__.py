"""Anthropic's messages, as jobs and results."""
