"""`headrace callbacks`: what follows from a job's start and end, at least once, whatever dies.

The queue's scripts write an outbox entry with the very move that it tells of. `relay` reads the entries
(`outbox`): for a webhook it makes a delivery, for a Celery task `tasks` does what Celery would, with
`completion`, and only then is the entry gone. `deliveries` sends what is due, with the network half in
`webhooks`. `upkeep` does for the queues what workers do too, for when there are none. `run` is the
Celery worker around them.
"""
