"""The host: a real Celery worker that supervises the engine processes of one machine. Imports no torch."""
