"""Batches of OpenAI's API: a file of requests becomes jobs, and their results a file of answers."""
