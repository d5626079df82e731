"""From a claimed job to an engine request, in a place of its own.

What a producer sends decides how long it takes to be read: a long prompt, a template that loops, a long token
log. So that is done in processes beside the engine's, which can be given up; see `process.py` for theirs,
`lanes.py` for the engine process's side.
"""
