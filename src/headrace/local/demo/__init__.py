"""`headrace demo`: a short tour on one machine, which ends by itself."""

from .tour import demo

__all__ = ["demo"]
