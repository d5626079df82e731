"""Settings, the one home of every default."""
