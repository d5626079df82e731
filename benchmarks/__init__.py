"""Measured claims: each benchmark prints ratios against something in the same run."""
