"""The Celery task: `generate.delay(...)` puts a job on the stream; results, chains and chords work as usual.

A generation never travels as a Celery message: the task's `apply_async` passes it to the queue's own
`enqueue`, together with the message that Celery would have sent. When the job ends, `headrace callbacks` uses
that to complete the task.
"""
