"""The host: a real Celery worker that supervises one machine's engine processes. It doesn't import torch."""
