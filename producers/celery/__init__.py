"""The Celery task: `generate.delay(...)` puts a job on the stream; results, chains and chords follow as ever.

A generation never travels as a Celery message: the task's `apply_async` hands it to the queue's own `enqueue`
with what Celery would have sent. When the job ends, `headrace callbacks` completes the task from that.
"""
