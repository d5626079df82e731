"""`headrace callbacks`: what follows a job's start and end, at least once, no matter which process dies.

The queue's scripts write an outbox entry together with the change that it reports. `relay` reads the entries
(`outbox`): for a webhook it makes a delivery, for a Celery task `tasks` does what Celery would, with
`completion`, and only then is the entry removed. `deliveries` sends what is due, with the network half in
`webhooks`. Upkeep of the queues, which workers do too, is done here in case there are no workers. `run` is
the Celery worker around it.
"""
