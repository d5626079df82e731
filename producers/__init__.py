"""Everything that enqueues jobs or reads their streams and results."""
