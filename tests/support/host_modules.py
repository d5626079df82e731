"""What a host imports, also what Celery imports when it starts; without torch."""

import kombu.transport.redis  # noqa: F401

import headrace.workers.host.run  # noqa: F401
