"""The contract between producers and workers: wire models, key names, scripts, errors, settings."""
