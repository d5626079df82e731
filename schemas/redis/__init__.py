"""Talking to Redis however it is run."""
