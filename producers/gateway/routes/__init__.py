"""The gateway's routes, a router per file."""
