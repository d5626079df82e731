"""What users write, for mypy to check with the package: pytest runs none of it."""
