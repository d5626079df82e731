"""The file store: contents in a folder or bucket, records in Redis."""
