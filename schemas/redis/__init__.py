"""Talking to Redis, whether it is one server, Sentinels or a Cluster."""
