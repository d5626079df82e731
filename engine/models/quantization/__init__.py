"""Checkpoints whose weights are not floats: what they say of themselves, and how they are read."""
