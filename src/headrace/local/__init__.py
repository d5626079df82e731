"""Everything on one machine: Redis, a worker, callbacks, and the demo."""
