"""Everything that executes jobs: the Celery host, the engine process, text, the embedded Redis."""
