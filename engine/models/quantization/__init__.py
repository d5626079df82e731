"""Checkpoints whose weights are not floats: how they describe themselves, and how they are read."""
