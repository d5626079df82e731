"""Everything that executes jobs: hosts, engine processes and callbacks."""
