"""The producers' commands: one job, a file of jobs, and what is going on."""
