"""Turns a claimed job into an engine request, in a process of its own.

How long a job takes to read depends on what its producer sends: a long prompt, a template that loops, a long
token log. Reading is therefore done in processes beside the engine's, which can be given up. `process.py` is
their side, `lanes.py` the engine process's.
"""
