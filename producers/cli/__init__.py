"""The producers' commands: one job, a file of jobs, and the state of the queues."""
