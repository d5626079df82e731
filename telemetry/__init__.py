"""Logs, metrics and health: used by every process, owned by none."""
