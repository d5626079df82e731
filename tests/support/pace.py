"""Imported by a fork server: a step of its engines takes as long as one of the built-in model, but sleeps."""

from headrace.local.demo.paced_engine import keep_pace

keep_pace(0.0015)
