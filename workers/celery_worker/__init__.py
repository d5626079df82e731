"""What headrace's own Celery workers share: the hosts' and the callbacks'."""
