"""What headrace's two kinds of Celery workers, hosts and callbacks, have in common."""
