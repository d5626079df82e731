"""What the gateway adds to the way through Redis, with a model that costs nothing; see `__main__`."""
